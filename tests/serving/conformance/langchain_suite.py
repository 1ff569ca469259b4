"""langchain-tests' suite of chat models, with ChatOpenAI on our server; `make conformance` runs it."""

import os

from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


class TestChatOpenAI(ChatModelIntegrationTests):
    @property
    def chat_model_class(self):
        return ChatOpenAI

    @property
    def chat_model_params(self):
        return {
            "model": os.environ["CONFORMANCE_MODEL"],
            "base_url": os.environ["CONFORMANCE_URL"],
            "api_key": "none",
            "max_tokens": 600,
            "frequency_penalty": 1.0,  # a small model would not end a text of JSON by itself
            "presence_penalty": 0.5,
            "stream_usage": True,
        }

    @property
    def has_tool_calling(self):
        return False

    @property
    def has_structured_output(self):
        return True

    @property
    def structured_output_kwargs(self):
        return {"method": "json_schema"}
