"""A registry as Prometheus text, format version 0.0.4. Knows no HTTP."""

from __future__ import annotations

from mlc_llm.metrics.registry import Registry, Sample

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(registry: Registry) -> str:
    """Every metric with its HELP and TYPE, one sample a line."""
    lines: list[str] = []
    constant = tuple(registry.constant_labels.items())
    for metric in registry:
        lines.append(f"# HELP {metric.name} {_escape_help(metric.help)}")
        lines.append(f"# TYPE {metric.name} {metric.kind}")
        lines.extend(_line(metric.name, constant, sample) for sample in metric.samples())
    return "\n".join(lines) + "\n"


def _line(name: str, constant: tuple[tuple[str, str], ...], sample: Sample) -> str:
    labels = ",".join(f'{key}="{_escape_label(value)}"' for key, value in constant + sample.labels)
    braces = f"{{{labels}}}" if labels else ""
    return f"{name}{sample.suffix}{braces} {_number(sample.value)}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _escape_label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
