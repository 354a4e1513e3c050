"""What a real environment is, as far as its data must agree: the identity that a journal carries."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class Schema:
    """One robot and the layout of its rows. Two schemas that differ are never mixed in one store."""

    robot: str  # the factory's reference, module:function
    obs_size: int
    action_size: int
    action_low: tuple[float, ...]  # [A]
    action_high: tuple[float, ...]  # [A]
    rate: float  # [Hz] control steps a second; 0 for an environment without a clock of its own

    def to_json(self) -> str:
        """Canonical: sorted keys, no spaces."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    def digest(self) -> bytes:
        """Eight bytes that stand for the schema in every record."""
        return hashlib.sha256(self.to_json().encode()).digest()[:8]


def from_json(text: str) -> Schema:
    """The inverse of `Schema.to_json`. Raises ValueError for another layout."""
    values = json.loads(text)
    names = [field.name for field in fields(Schema)]
    if not isinstance(values, dict) or sorted(values) != sorted(names):
        raise ValueError(f"a schema holds {', '.join(names)}, not {text[:200]}")
    return Schema(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def difference(ours: Schema, theirs: Schema) -> list[str]:
    """One line for each field that differs: `name: ours, not theirs`."""
    return [
        f"{field.name}: {getattr(ours, field.name)}, not {getattr(theirs, field.name)}"
        for field in fields(Schema)
        if getattr(ours, field.name) != getattr(theirs, field.name)
    ]
