"""Predict files in the form that MindFormers writes them, with the dimensions of published models."""

# The parts around the model, as they stand in the predict files of MindFormers.
PREDICT_FILE = """
seed: 0
output_dir: './output' # path to save checkpoint/strategy
load_checkpoint: '{load_checkpoint}'
auto_trans_ckpt: False  # If true, auto transform load_checkpoint to load in distributed model
run_mode: 'predict'
trainer:
  type: CausalLanguageModelingTrainer
  model_name: 'llama'
runner_config:
  epochs: 2
  batch_size: 1
  sink_mode: True
train_dataset: &train_dataset
  data_loader:
    type: MindDataset
train_dataset_task:
  type: CausalLanguageModelDataset
  dataset_config: *train_dataset
use_parallel: {use_parallel}
parallel:
  parallel_mode: 1
  full_batch: True
parallel_config:
  data_parallel: 1
  model_parallel: {model_parallel}
  pipeline_stage: 1
  use_seq_parallel: False
  vocab_emb_dp: True
moe_config:
  expert_num: 1
callbacks:
  - type: MFLossMonitor
context:
  mode: 0 #0--Graph Mode; 1--Pynative Mode
  device_target: "Ascend"
  max_device_memory: "58GB"
model:
  model_config:
    type: LlamaConfig
    use_past: True
    is_dynamic: True
    qkv_concat: False
    pad_token_id: 0
    rms_norm_eps: 1.0e-5
    param_init_type: "float16"
{model_config}
  arch:
    type: LlamaForCausalLM
processor:
  return_tensors: ms
  tokenizer:
    type: LlamaTokenizer
    vocab_file: '{vocab_file}'
  type: LlamaProcessor
"""

LLAMA2_70B = """
    batch_size: 1 # add for increase predict
    seq_length: 4096
    hidden_size: 8192
    num_layers: 80
    num_heads: 64
    max_position_embedding: 4096
    vocab_size: 32000
    multiple_of: 256
    n_kv_heads: 8
    ffn_dim_multiplier: 1.3
    bos_token_id: 1
    eos_token_id: 2
    compute_dtype: "float16"
    scaling_factor: 1.0
    extend_method: "None" # support "None", "PI", "NTK"
    block_size: 16
    num_blocks: 512
    checkpoint_name_or_path: "llama2_70b"
    repetition_penalty: 1
    max_decode_length: 512
    top_k: 3
    top_p: 1
    do_sample: False
"""
LLAMA2_13B = """
    batch_size: 4
    seq_length: 4096
    hidden_size: 5120
    num_layers: 40
    num_heads: 40
    vocab_size: 32000
    multiple_of: 256
    bos_token_id: 1
    eos_token_id: 2
    compute_dtype: "float16"
    block_size: 32
    num_blocks: 512
    do_sample: False
"""
LLAMA3_70B = """
    batch_size: 1
    seq_length: 8192
    hidden_size: 8192
    num_layers: 80
    num_heads: 64
    n_kv_heads: 8
    ffn_dim_multiplier: 1.3
    multiple_of: 256
    vocab_size: 128256
    bos_token_id: 128000
    eos_token_id: [128001, 128009]
    compute_dtype: "bfloat16"
    theta: 500000
    block_size: 16
    num_blocks: 1024
    do_sample: False
"""
LLAMA31_8B = """
    batch_size: 1
    seq_length: 512
    hidden_size: 4096
    num_layers: 32
    num_heads: 32
    n_kv_heads: 8
    vocab_size: 128256
    intermediate_size: 14336
    bos_token_id: 128000
    eos_token_id: 128001
    max_position_embedding: 131072
    compute_dtype: "float16"
    theta: 500000
    extend_method: "LLAMA3" # support "None", "PI", "NTK", "LLAMA3"
    scaling_factor:
      factor: 8.0
      low_freq_factor: 1.0
      high_freq_factor: 4.0
      original_max_position_embeddings: 8192
    block_size: 16
    num_blocks: 512
    do_sample: False
    auto_map:
      AutoTokenizer: [llama3_1_tokenizer.Llama3Tokenizer, null]
"""
SMALL = """
    hidden_size: 64
    num_layers: 2
    num_heads: 4
    compute_dtype: "float32"
    vocab_size: 256
"""
QWEN2_5_7B = """
    batch_size: 1
    seq_length: 32768
    hidden_size: 3584
    num_layers: 28
    num_heads: 28
    n_kv_heads: 4
    vocab_size: 152064
    intermediate_size: 18944
    max_position_embeddings: 32768
    qkv_has_bias: True
    rms_norm_eps: 1.0e-6
    theta: 1000000.0
    eos_token_id: [151645, 151643]
    bos_token_id: 151643
    compute_dtype: "bfloat16"
    block_size: 32
    num_blocks: 1024
    do_sample: False
"""
QWEN_FOLDER_FILE = """
seed: 0
load_checkpoint: ''
use_parallel: False
run_mode: 'predict'
use_legacy: False
load_ckpt_format: 'safetensors'
trainer:
  type: CausalLanguageModelingTrainer
  model_name: 'qwen3'
parallel_config:
  data_parallel: 1
  model_parallel: 1
pretrained_model_dir: '{folder}'
model:
  model_config:
    {type}compute_dtype: "bfloat16"
    layernorm_compute_dtype: "float32"
    rotary_dtype: "bfloat16"
    params_dtype: "bfloat16"
"""
