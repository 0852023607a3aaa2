"""What one mock server does: its settings, each also a flag of the command."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Behaviour of one server; the flags of README.md, with underscores."""

    latency_ms: float = 0.0
    latency_dist: str = "fixed"
    latency_sigma: float = 0.5
    ms_per_token: float = 0.0
    tokens: int = 32
    tokens_sigma: float = 0.0
    max_concurrency: int = 0
    rpm: int = 0
    retry_after: float = 1.0
    error_500_rate: float = 0.0
    error_reset_rate: float = 0.0
    error_timeout_rate: float = 0.0
    error_malformed_rate: float = 0.0
    error_content_rate: float = 0.0
    timeout_s: float = 60.0
    keep_alive_s: float = 300.0
    seed: int = 0
    embedding_dim: int = 64
    usage: bool = True
    logprobs: bool = True
    vary: bool = False
    refuses: tuple[str, ...] = ()
    refuse_status: int = 400
    control_characters: bool = False
    one_choice: bool = False
    require_key: str = ""
    known_models_only: bool = False
    record: int = 0
    hold_jobs: bool = False
    job_max_requests: int = 50_000
    models: tuple[str, ...] = ("mock-model",)
    templates: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def fault_rates(self) -> tuple[tuple[str, float], ...]:
        """Return the share of requests that meets each random fault, by its name in /stats."""
        return (
            ("500", self.error_500_rate),
            ("reset", self.error_reset_rate),
            ("timeout", self.error_timeout_rate),
            ("malformed", self.error_malformed_rate),
            ("content", self.error_content_rate),
        )
