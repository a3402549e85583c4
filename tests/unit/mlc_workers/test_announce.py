"""What clients hear before the engine serves."""

from __future__ import annotations

from mlc_llm.errors import BadConfig
from mlc_llm.protocol.messages import Progress, StartFailed
from mlc_workers.announce import Announcer

from .engine_bench import FakeEnd


def test_every_client_hears_of_progress_and_failure() -> None:
    ends = [FakeEnd(), FakeEnd()]
    announcer = Announcer(ends)
    announcer.progress("load", "half", 0.5)
    announcer.start_failed(BadConfig("set --x\nto 1"))
    for end in ends:
        assert end.frames == [
            Progress("load", "half", 0.5),
            StartFailed("BadConfig", "set --x to 1"),
        ]


def test_an_error_that_is_not_ours_is_an_engine_fault_in_one_line() -> None:
    end = FakeEnd()
    Announcer([end]).start_failed(KeyError("layer\n7"))
    (failed,) = end.frames
    assert isinstance(failed, StartFailed)
    assert failed.kind == "EngineFault"
    assert failed.message.startswith("the engine failed to start: KeyError: ")
    assert "\n" not in failed.message


def test_progress_is_not_waited_for() -> None:
    end = FakeEnd()
    end.is_full = True
    Announcer([end]).progress("load", "half")
    assert end.frames == []
