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
            "max_tokens": 64,
            "stream_usage": True,
        }

    @property
    def has_tool_calling(self):
        return False

    @property
    def has_structured_output(self):
        return False
