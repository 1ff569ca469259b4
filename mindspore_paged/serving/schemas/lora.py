"""Bodies of /v1/load_lora_adapter and /v1/unload_lora_adapter, as vLLM has them."""

from typing import Annotated

from pydantic import Field

from mindspore_paged.engine.requests.lora_adapters import MAX_NAME
from mindspore_paged.serving.schemas.common import OpenSchema

AdapterName = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]


class LoadLoraAdapter(OpenSchema):
    """A PEFT folder, and the name that requests ask for it by."""

    lora_name: AdapterName
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]


class UnloadLoraAdapter(OpenSchema):
    """The name of an adapter that is loaded."""

    lora_name: AdapterName
