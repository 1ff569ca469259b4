"""The checkpoint that a configuration names, the model that it describes, and the part of it that a rank reads."""

import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from mindspore_paged.config import DEMO_WEIGHTS, RANDOM_WEIGHTS, EngineConfig
from mindspore_paged.errors import CheckpointError, ConfigError
from mindspore_paged.key_file import read_key
from mindspore_paged.mindir.folder import MindIRFolder, is_mindir_folder
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.registry import model_config_by_name
from mindspore_paged.models.rope import attention_factor, inverse_frequencies
from mindspore_paged.tensor_parallel import WHOLE, TensorParallel
from mindspore_paged.weights.checkpoint import Checkpoint, open_checkpoint
from mindspore_paged.weights.demo_model import fetch_demo_model
from mindspore_paged.weights.exported_checkpoint import ExportedCheckpoint
from mindspore_paged.weights.random_checkpoint import RandomCheckpoint
from mindspore_paged.weights.sharded_checkpoint import ShardedCheckpoint

NOT_OF_THE_SHAPE = ("bos_token_id", "eos_token_ids", "max_position_embeddings", "architecture")
"""Fields in which checkpoints of one model differ: the weights' own values are taken.

GGUF files call Mistral llama; what a family computes is said by the other fields."""


def open_weights(config: EngineConfig, parallel: TensorParallel = WHOLE) -> Checkpoint:
    """The checkpoint that `model.weights` names, whole, or of ranks' folders that of this rank.

    Raises ConfigError if it names none, CheckpointError for a bad one.
    """
    weights = config.model.weights
    if weights is None:
        raise ConfigError("model.weights is not set; give a file, a folder, `demo` or `random`")
    if weights == RANDOM_WEIGHTS:
        return RandomCheckpoint(config.model.dimensions(), config.model.seed)
    if weights == DEMO_WEIGHTS:
        weights = fetch_demo_model(report=lambda line: None)
    if is_mindir_folder(weights):
        return ExportedCheckpoint(_folder_of(weights, config, parallel))
    for key, is_set in {
        "model.verify_key": config.model.verify_key,
        "runtime.local_kernels": config.runtime.local_kernels,
    }.items():
        if is_set:
            raise ConfigError(f"{key} is set, which is for exported models; {weights} is none")
    return open_checkpoint(weights, config.model.dimensions(), parallel)


def _folder_of(path: Path, config: EngineConfig, parallel: TensorParallel) -> MindIRFolder:
    key_file = config.model.verify_key
    verify_key = None if key_file is None else read_key(key_file, "model.verify_key")
    folder = MindIRFolder(path, verify_key, config.runtime.local_kernels)
    exported = (folder.manifest.rank, folder.manifest.num_ranks)
    if exported != (parallel.rank, parallel.size):
        raise CheckpointError(
            f"{path}: the part of rank {exported[0]} of {exported[1]}; this process is rank {parallel.rank} of "
            f"{parallel.size}"
        )
    return folder


def resolve_model_config(config: EngineConfig, checkpoint: Checkpoint) -> ModelConfig:
    """What the weights say of themselves, or else the YAML, with the keys of model.config on top."""
    described = checkpoint.model_config
    if config.model.name is not None and described is not None:
        _check_name(config, described)
    model_config = config.model.dimensions(described)
    if isinstance(checkpoint, ExportedCheckpoint) and model_config != described:
        raise CheckpointError(f"{checkpoint.path}: the graph is of another model than model.config says; leave it out")
    if model_config is None:
        raise ConfigError(f"{checkpoint.path} does not describe its model; set model.name, or all of model.config")
    return model_config


def _check_name(config: EngineConfig, described: ModelConfig) -> None:
    """Refuse a model.name that the weights contradict: equal shapes with other frequencies give fluent nonsense."""
    named = model_config_by_name(config.model.name)
    for field in fields(ModelConfig):
        ours, theirs = getattr(named, field.name), getattr(described, field.name)
        if field.name == "rope_scaling":
            same = ours == theirs or _same_rotation(named, described)
        else:
            same = math.isclose(ours, theirs, rel_tol=1e-6) if isinstance(ours, float) else ours == theirs
        if not (same or config.model.overrides(field.name) or field.name in NOT_OF_THE_SHAPE):
            raise ConfigError(
                f"model.name {config.model.name} has {field.name} {ours}, but the weights say {theirs}; "
                "leave model.name out"
            )


def _same_rotation(named: ModelConfig, described: ModelConfig) -> bool:
    """Whether both scale frequencies to the same, which a GGUF file writes as numbers and others as a rule."""
    longest = described.max_position_embeddings
    ours, theirs = (
        inverse_frequencies(replace(config, max_position_embeddings=longest), longest) for config in (named, described)
    )
    factors = attention_factor(named), attention_factor(described)
    return ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=1e-5) and math.isclose(*factors, rel_tol=1e-5)


def part_of(checkpoint: Checkpoint, parallel: TensorParallel, model_config: ModelConfig) -> Checkpoint:
    """The checkpoint as one rank reads it: its part of every tensor."""
    if parallel.size == 1 or isinstance(checkpoint, ShardedCheckpoint | ExportedCheckpoint):  # one rank's part already
        return checkpoint
    return ShardedCheckpoint(checkpoint, parallel.cuts(model_config))
