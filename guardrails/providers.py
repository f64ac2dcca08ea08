"""What LangChain calls a provider, and what the price data calls it."""

from __future__ import annotations

from typing import Any, Final

_PROVIDERS: Final = {
    "google_genai": "google",
    "google_vertexai": "google",
    "google_anthropic_vertex": "google",
    "amazon_bedrock": "aws",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "anthropic_bedrock": "aws",
    "azure_openai": "azure",
    "azure_ai": "azure",
    "mistralai": "mistral",
    "xai": "x-ai",
}
"""LangChain's names of providers whose name in the price data is another."""


def provider_named(name: Any) -> str | None:
    """LangChain's name of a provider, as the price data has it.

    >>> provider_named("azure_openai")
    'azure'
    """
    if not isinstance(name, str) or not name:
        return None
    plain = name.lower().strip()
    return _PROVIDERS.get(plain) or _PROVIDERS.get(plain.replace("-", "_"), plain)
