"""The section `server`: where requests come in by HTTP, from whom, and how much of each is borne."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    PlainValidator,
    StrictBool,
    StrictFloat,
    StrictInt,
    field_validator,
)
from pydantic.dataclasses import dataclass

from mindspore_paged.config.values import SECTION, byte_size, path


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"a regular expression: {error}") from None
    return value


Seconds = Annotated[StrictFloat, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=SECTION)
class ServerSection:
    """How `scripts/run_server.py` serves; all times in seconds.

    host, port: where it listens; port 0 takes any that is free. served_model_names: what clients call the model, the
    first in answers; none takes the name of the weights. api_key_file: one key a line, of which each request needs
    one; None asks for none. cache_salt_from_key: prompts of one key do not find the pages of another's.
    allow_lora_loading: clients may load adapters from folders of this machine, and unload them (/v1/load_lora_adapter).
    tls_certificate, tls_key: PEM files, both or neither. allowed_origins: web sites whose scripts may ask (CORS).
    logits_processor_pattern: a regular expression of the functions, by `module.name`, that clients may ask for as
    logits_processors; None allows none.
    max_body_bytes: of a request's body. max_queued_requests: when so many wait, further ones are refused with 429.
    queue_timeout, request_timeout: from a request's arrival to its first step, and to its end; None is no limit.
    connection_timeout: a client that sends nothing, or takes nothing, for so long is let go.
    max_buffered_updates: steps' results that wait for a client that reads slowly; more of them end its request.
    drain_seconds: how long requests under way may go on after SIGTERM.
    access_log: a line of JSON on standard output for each request. otlp_traces_endpoint: the URL of a collector that
    gets OpenTelemetry's spans by HTTP; None asks OTEL_EXPORTER_OTLP_ENDPOINT.
    """

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[StrictInt, Field(ge=0, le=65535)] = 8000
    served_model_names: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    api_key_file: Annotated[Path, BeforeValidator(path)] | None = None
    cache_salt_from_key: StrictBool = False
    allow_lora_loading: StrictBool = False
    tls_certificate: Annotated[Path, BeforeValidator(path)] | None = None
    tls_key: Annotated[Path, BeforeValidator(path)] | None = None
    allowed_origins: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    logits_processor_pattern: Annotated[str, AfterValidator(_pattern)] | None = None
    max_body_bytes: Annotated[ByteSize, PlainValidator(byte_size), Field(gt=0)] = ByteSize(8 * 2**20)
    max_queued_requests: StrictInt = Field(256, ge=1)
    queue_timeout: Seconds | None = 120.0
    request_timeout: Seconds | None = 600.0
    connection_timeout: Seconds = 30.0
    max_buffered_updates: StrictInt = Field(4096, ge=1)
    drain_seconds: Annotated[StrictFloat, Field(ge=0, allow_inf_nan=False)] = 30.0
    access_log: StrictBool = True
    otlp_traces_endpoint: Annotated[str, Field(pattern=r"^https?://[!-~]+$")] | None = None

    @field_validator("tls_key")
    @classmethod
    def _certificate_and_key_come_together(cls, key, info):
        if (key is None) != (info.data.get("tls_certificate") is None):
            raise ValueError("given where server.tls_certificate is, and only there")
        return key

    @field_validator("cache_salt_from_key")
    @classmethod
    def _salts_need_keys(cls, salted, info):
        if salted and info.data.get("api_key_file") is None:
            raise ValueError("false where server.api_key_file is not given: there are no keys to tell clients by")
        return salted
