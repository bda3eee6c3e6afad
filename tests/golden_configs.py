"""Every config of the repository, resolved, one line a field, kept so that a change that it inherits is seen in review.

python -m tests.golden_configs     rewrites tests/golden/configs/*.txt
"""

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "golden" / "configs"
# Behind a colon the argument of `get_config`.
CONFIGS = (
    "bflow_75m",
    "bflow_events_75m",
    "bflow_events_75m:from_clip",
    "bflow_quickstart",
    "bflow_quickstart:from_clip",
    "chain_quickstart",
    "chain_quickstart:bflow",
    "chain_quickstart:clip",
    "chain_quickstart:duplex",
    "chain_quickstart:vlm",
    "clip_quickstart",
    "clip_s16",
    "codec_mimi",
    "codec_quickstart",
    "codec_quickstart:decoder",
    "duplex_300m",
    "duplex_300m_speech",
    "duplex_clip_llm",
    "duplex_clip_llm:clip",
    "duplex_smollm2",
    "memory_quickstart",
    "quickstart",
    "real",
    "speak_quickstart",
    "vlm_quickstart",
    "vlm_single_token",
    "vlm_single_token:clip",
    "world",
    "world:bflow",
)


def lines_of(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """`path = value` of every field, sorted by path; an empty mapping is a value."""
    for name, value in sorted(values.items()):
        if isinstance(value, Mapping) and value:
            yield from lines_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name} = {value!r}"


def resolved(name: str) -> list[str]:
    """The fields of a config as text."""
    module, _, argument = name.partition(":")
    get_config = importlib.import_module(f"configs.{module}").get_config
    return list(lines_of((get_config(argument) if argument else get_config()).to_dict()))


def golden_path(name: str) -> Path:
    return GOLDEN / f"{name.replace(':', '-')}.txt"


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for config in CONFIGS:
        golden_path(config).write_text("\n".join(resolved(config)) + "\n", encoding="utf-8")
