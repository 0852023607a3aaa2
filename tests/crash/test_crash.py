"""Real processes of running pipelines are killed at random moments; nothing is lost, doubled, or left over."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import SystemRandom

import pytest

from tests.crash.campaign import KINDS, Campaign
from tests.crash.pipelines import JUDGE_TEMPLATE, MODELS
from tests.servers import MockLLM, mock_llm

SEED = int(os.environ.get("DISTILNB_SEED") or SystemRandom().randrange(1, 10**6))
MIN_KILLS = 200
MIN_KILLS_OF_A_KIND = 30
MIN_KILLS_IN_A_PHASE = 8
FULL_MINUTES = 24.0
MINUTES = float(os.environ.get("DISTILNB_CRASH_MINUTES") or FULL_MINUTES)


@pytest.fixture
def server() -> Iterator[MockLLM]:
    with mock_llm(
        latency_ms=80, latency_dist="lognormal", tokens=12, models=MODELS, templates={"judge": JUDGE_TEMPLATE}
    ) as server:
        yield server


@pytest.fixture
def campaign(server: MockLLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Campaign]:
    campaign = Campaign(server, tmp_path, SEED)
    yield campaign
    with capsys.disabled():
        print(f"\n{campaign.table()}")  # noqa: T201 - the table is what the test is for


@pytest.mark.timeout(1200)
def test_a_run_survives_the_kill_of_each_process(campaign: Campaign) -> None:
    campaign.assault(0)
    campaign.assault_start(0)
    assert {kill.kind for kill in campaign.kills} == set(KINDS)
    assert any(kill.n_in_flight for kill in campaign.kills)


@pytest.mark.crash
@pytest.mark.timeout(3600)
def test_many_runs_survive_the_kill_of_each_process(campaign: Campaign) -> None:
    """Kills until each kind and each phase had its share, or, with less than the full time, as many as go into it."""
    deadline = time.monotonic() + 60 * MINUTES
    while time.monotonic() < deadline and not _is_enough(campaign):
        campaign.assault(campaign.n_runs)
        if campaign.n_runs % 3 == 0:
            campaign.assault_start(campaign.n_runs)
    assert _is_enough(campaign) or (MINUTES < FULL_MINUTES and campaign.n_runs > 0)


def _is_enough(campaign: Campaign) -> bool:
    kills = campaign.kills
    kinds, phases = Counter(kill.kind for kill in kills), Counter(kill.phase for kill in kills)
    return (
        len(kills) >= MIN_KILLS
        and 2 * sum(kill.n_in_flight > 0 for kill in kills) >= len(kills)
        and all(kinds[kind] >= MIN_KILLS_OF_A_KIND for kind in KINDS)
        and all(
            phases[phase] >= MIN_KILLS_IN_A_PHASE
            for phase in ("start-up", "flow", "join", "global", "finish")
        )
    )
