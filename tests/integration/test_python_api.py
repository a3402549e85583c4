"""The Python engines over a real engine process that echoes prompts: no model, no compiler."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from mlc_llm.errors import (
    BadConfig,
    BadModel,
    BadRequest,
    DuplicateRequest,
    EngineDied,
    EngineUnavailable,
)
from mlc_llm.protocol.messages import Progress
from mlc_llm.protocol.spec import EngineSpec
from mlc_llm.serve.config import EngineConfig
from mlc_llm.serve.engine import AsyncMLCEngine, MLCEngine
from mlc_llm.serve.engine_base import MLCEngineBase
from mlc_llm.serve.running import RunningEngine
from support.fake_engine import fake_engine
from support.shared import REPOSITORY
from support.toy_text import ToyText

AnyEngine = TypeVar("AnyEngine", bound=MLCEngineBase)

FOREVER = {"prompt": [1, 2, 3], "ignore_eos": True}
"""A request that ends only when it is aborted."""


def over_fake(kind: type[AnyEngine], *flags: str) -> AnyEngine:
    running = RunningEngine.start(EngineSpec(model="none"), command=fake_engine(*flags))
    return kind.over(running, ToyText(), EngineConfig(), enable_tracing=True)


@pytest.fixture
def engine() -> Iterator[MLCEngine]:
    with over_fake(MLCEngine) as engine:
        yield engine


@pytest.fixture
async def async_engine() -> AsyncIterator[AsyncMLCEngine]:
    async with over_fake(AsyncMLCEngine) as engine:
        yield engine


def wait_until_idle(engine: MLCEngine) -> None:
    """An abort is on its way; asking the engine puts the question behind it."""
    while engine.metrics()["num_running"]:
        pass


# --- the waiting engine ---------------------------------------------------------------------


def test_an_answer_that_is_not_streamed(engine: MLCEngine) -> None:
    messages = [{"role": "user", "content": "7 8 9"}]
    response = engine.chat.completions.create(messages=messages, model="m", stream=False)
    assert response.choices[0].message.content == " 7 8 9"
    assert response.choices[0].finish_reason == "stop"
    assert (response.model, response.object) == ("m", "chat.completion")
    assert response.usage.prompt_tokens == response.usage.completion_tokens == 3
    assert response.usage.extra is not None


def test_a_streamed_answer_says_the_same(engine: MLCEngine) -> None:
    output = ""
    for response in engine.chat.completions.create(
        messages=[{"role": "user", "content": "7 8 9"}], stream=True
    ):
        for choice in response.choices:
            output += choice.delta.content
    assert output == " 7 8 9"


def test_a_streamed_answer_ends_with_its_usage_when_asked(engine: MLCEngine) -> None:
    *_, last = engine.completions.create(
        prompt=[1, 2], stream=True, stream_options={"include_usage": True}
    )
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 4


def test_several_prompts_and_choices_are_one_answer(engine: MLCEngine) -> None:
    response = engine.completions.create(prompt=[[1, 2], [3]], n=2)
    assert [choice.text for choice in response.choices] == [" 1 2", " 1 2", " 3", " 3"]
    assert response.usage.completion_tokens == 6


def test_threads_may_share_a_stream_and_each_chunk_goes_to_one(engine: MLCEngine) -> None:
    prompt = list(range(100, 400))
    stream = engine.completions.create(prompt=prompt, stream=True)
    with ThreadPoolExecutor(4) as pool:
        shares = list(
            pool.map(lambda _: [c.choices[0].text for c in stream if c.choices], range(4))
        )
    texts = "".join(text for share in shares for text in share).split()
    assert sorted(texts) == sorted(map(str, prompt))


def test_a_stream_may_be_closed_while_another_thread_reads_it(engine: MLCEngine) -> None:
    stream = engine.completions.create(**FOREVER, stream=True)
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(list, stream)
        stream.close()
        reading.result(60)
    wait_until_idle(engine)


def test_a_forked_process_is_told_to_make_its_own_engine(engine: MLCEngine) -> None:
    stream = engine.completions.create(**FOREVER, stream=True)
    next(stream)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        told = []
        for use in (lambda: engine.completions.create(prompt=[1]), lambda: next(stream)):
            try:
                use()
            except EngineUnavailable as error:
                told.append(error.message)
        stream.close()
        engine.terminate()
        os.write(writing, "\n".join(told).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with open(reading) as words:
        told = words.read().splitlines()
    assert len(told) == 2
    assert all("make one in this process" in sentence for sentence in told)
    assert next(stream).choices, "the engine serves on for the process that made it"
    stream.close()


def test_leaving_a_stream_early_aborts_the_request(engine: MLCEngine) -> None:
    for _ in engine.completions.create(**FOREVER, stream=True):
        break
    wait_until_idle(engine)
    with engine.completions.create(**FOREVER, stream=True) as stream:
        next(stream)
    wait_until_idle(engine)
    stream = engine.completions.create(**FOREVER, stream=True)
    stream.close()
    assert list(stream) == []
    wait_until_idle(engine)


def test_a_request_aborted_by_id_ends_with_reason_abort_and_keeps_its_text(
    engine: MLCEngine,
) -> None:
    stream = engine.completions.create(**FOREVER, stream=True, request_id="mine")
    assert next(stream).id == "mine"
    engine.abort("mine")
    reasons = [choice.finish_reason for chunk in stream for choice in chunk.choices]
    assert reasons[-1] == "abort"
    engine.abort("mine")
    engine.abort("never heard of")


def test_an_answer_aborted_by_another_thread_is_returned_as_far_as_it_came(
    engine: MLCEngine,
) -> None:
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(engine.completions.create, **FOREVER, request_id="mine")
        while not engine.metrics()["num_running"]:
            pass
        engine.abort("mine")
        assert whole.result().choices[0].finish_reason == "abort"


def test_an_id_may_be_used_again_but_not_twice_at_a_time(engine: MLCEngine) -> None:
    first = engine.completions.create(**FOREVER, stream=True, request_id="mine")
    with pytest.raises(DuplicateRequest, match="'mine'"):
        engine.completions.create(prompt=[1], request_id="mine")
    first.close()
    wait_until_idle(engine)
    assert engine.completions.create(prompt=[1], request_id="mine").id == "mine"


def test_several_threads_may_ask_at_the_same_time(engine: MLCEngine) -> None:
    def ask(number: int) -> str:
        chunks = engine.completions.create(prompt=[number] * 20, stream=True)
        return "".join(chunk.choices[0].text for chunk in chunks)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(32))) == [f" {i}" * 20 for i in range(32)]


def test_a_wrong_request_is_refused_before_anything_is_sent(engine: MLCEngine) -> None:
    with pytest.raises(BadRequest, match="temperature"):
        engine.completions.create(prompt=[1], temperature="hot", stream=True)
    with pytest.raises(BadRequest, match="`messages` is required"):
        engine.chat.completions.create(model="m")
    with pytest.raises(TypeError, match="unexpected keyword argument 'temprature'"):
        engine.completions.create(prompt=[1], temprature=1)
    assert engine.metrics()["num_running"] == 0


def test_an_answer_s_message_may_go_into_the_next_request(engine: MLCEngine) -> None:
    first = engine.chat.completions.create(messages=[{"role": "user", "content": "4 5"}])
    again = engine.chat.completions.create(
        messages=[{"role": "user", "content": "1"}, first.choices[0].message]
    )
    assert again.choices[0].message.content == " 4 5"


def test_extra_body_adds_fields(engine: MLCEngine) -> None:
    response = engine.completions.create(prompt=[1, 2, 3], extra_body={"max_tokens": 2})
    assert response.choices[0].text == " 1 2"
    assert response.choices[0].finish_reason == "length"


def test_the_configuration_is_complete_once_the_engine_runs(engine: MLCEngine) -> None:
    assert engine.engine_config.max_num_sequence == 64
    assert engine.engine_config.mode == "local"
    assert engine.max_input_sequence_length == engine.engine_config.max_single_sequence_length


def test_metrics_are_numbers_and_prometheus_text(engine: MLCEngine) -> None:
    metrics = engine.metrics()
    assert "num_running" in metrics.metrics
    assert str(metrics) == str(metrics.metrics)
    assert "# TYPE mlc_llm:num_running gauge" in metrics.prometheus_text()


def test_the_trace_can_be_dumped_when_it_is_recorded(engine: MLCEngine) -> None:
    assert engine.state.trace_recorder is not None
    assert engine.state.trace_recorder.dump_json().startswith("[")


def test_reset_ends_what_runs(engine: MLCEngine) -> None:
    stream = engine.completions.create(**FOREVER, stream=True)
    next(stream)
    engine.reset()
    assert [c.choices[0].finish_reason for c in stream][-1] == "abort"


# --- its end --------------------------------------------------------------------------------


def process_of(engine: MLCEngineBase) -> int:
    return engine._engine.ready.pid


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_terminate_ends_the_process_and_may_be_repeated() -> None:
    engine = over_fake(MLCEngine)
    threads = threading.active_count()
    engine.terminate()
    engine.terminate()
    assert not is_alive(process_of(engine))
    assert threading.active_count() < threads
    with pytest.raises(EngineUnavailable, match="terminated"):
        engine.completions.create(prompt=[1])


def test_terminate_wakes_who_waits_for_an_answer() -> None:
    engine = over_fake(MLCEngine)
    stream = engine.completions.create(**FOREVER, stream=True)
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(engine.completions.create, **FOREVER)
        while engine.metrics()["num_running"] < 2:
            pass
        engine.terminate()
        with pytest.raises(EngineUnavailable):
            whole.result()
    with pytest.raises(EngineUnavailable):
        list(stream)


def test_an_engine_that_is_dropped_ends_its_process() -> None:
    engine = over_fake(MLCEngine)
    pid = process_of(engine)
    assert engine.completions.create(prompt=[1]).choices[0].text == " 1"
    del engine
    assert not is_alive(pid), "dropping the last reference must be enough, without the collector"


def test_an_engine_lives_as_long_as_a_stream_of_it_and_no_longer() -> None:
    engine = over_fake(MLCEngine)
    pid = process_of(engine)
    stream = engine.completions.create(prompt=[1, 2], stream=True)
    del engine
    assert "".join(chunk.choices[0].text for chunk in stream) == " 1 2"
    del stream  # the last owner may now be the loop's own thread, which must not wait for itself
    while is_alive(pid):
        pass


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT interrupts, as in a program at a terminal; a worker of pytest-xdist ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_interrupting_a_wait_aborts_the_request(engine: MLCEngine) -> None:
    main_thread = threading.get_ident()

    def interrupt() -> None:
        while not engine.metrics()["num_running"]:
            pass
        signal.pthread_kill(main_thread, signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            engine.completions.create(**FOREVER)
    wait_until_idle(engine)


def test_a_model_that_is_not_there_is_found_out_before_anything_starts() -> None:
    with pytest.raises(BadModel, match="no/such/folder"):
        MLCEngine("no/such/folder")


def test_a_feature_that_is_not_there_is_refused_by_its_keyword(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadConfig, match="speculative_mode=eagle is not supported"):
        AsyncMLCEngine(tmp_path, speculative_mode="eagle")
    with pytest.raises(BadConfig, match="max_batch_size=2 contradicts max_num_sequence=3"):
        MLCEngine(tmp_path, max_batch_size=2, engine_config=EngineConfig(max_num_sequence=3))


def test_a_program_that_forgets_its_engine_still_ends() -> None:
    program = """
from test_python_api import over_fake, FOREVER
from mlc_llm.serve.engine import MLCEngine
engine = over_fake(MLCEngine)
stream = engine.completions.create(**FOREVER, stream=True)
print(next(stream).choices[0].text, engine._engine.ready.pid)
"""
    rooms = ("pkg", "workers", "api", "tests", "tests/integration")
    path = os.pathsep.join(str(REPOSITORY / room) for room in rooms)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, *_, pid = done.stdout.split()
    assert first == "1"
    assert not is_alive(int(pid))


def test_an_engine_that_cannot_start_says_why_and_leaves_nothing() -> None:
    threads = threading.active_count()
    with pytest.raises(BadConfig, match="refuses to start"):
        over_fake(MLCEngine, "--start-failed", "BadConfig")
    with pytest.raises(EngineDied):
        over_fake(MLCEngine, "--exit-at-start", "7")
    assert threading.active_count() == threads


def test_progress_is_told_while_the_engine_starts() -> None:
    heard: list[Progress] = []
    running = RunningEngine.start(
        EngineSpec(model="a model"), on_progress=heard.append, command=fake_engine()
    )
    running.terminate()
    assert [progress.stage for progress in heard] == ["load"]


def test_the_death_of_the_engine_ends_the_answer_with_an_error() -> None:
    with over_fake(MLCEngine, "--die-after-steps", "5") as engine:
        stream = engine.completions.create(**FOREVER, stream=True)
        with pytest.raises(EngineDied):
            list(stream)
        assert list(stream) == []


# --- the awaited engine ---------------------------------------------------------------------


async def test_concurrent_streams_do_not_mix(async_engine: AsyncMLCEngine) -> None:
    output: dict[str, str] = {}

    async def ask(number: int) -> None:
        async for response in await async_engine.chat.completions.create(
            messages=[{"role": "user", "content": f"{number} {number}"}], stream=True
        ):
            output[response.id] = output.get(response.id, "") + response.choices[0].delta.content

    await asyncio.gather(*(ask(number) for number in range(16)))
    assert sorted(output.values()) == sorted(f" {i} {i}" for i in range(16))


async def test_an_awaited_answer(async_engine: AsyncMLCEngine) -> None:
    chat = await async_engine.chat.completions.create(messages=[{"role": "user", "content": "5"}])
    assert chat.choices[0].message.content == " 5"
    completion = await async_engine.completions.create(prompt=[5, 6], logprobs=1)
    assert completion.choices[0].logprobs is not None
    assert completion.choices[0].logprobs.tokens == [" 5", " 6"]


async def running_requests(engine: AsyncMLCEngine) -> float:
    return (await engine.metrics())["num_running"]


async def test_leaving_async_for_early_aborts(async_engine: AsyncMLCEngine) -> None:
    async for _ in await async_engine.completions.create(**FOREVER, stream=True):
        break
    while await running_requests(async_engine):
        pass


async def test_tasks_may_share_a_stream(async_engine: AsyncMLCEngine) -> None:
    prompt = list(range(100, 400))
    stream = await async_engine.completions.create(prompt=prompt, stream=True)

    async def read() -> str:
        return "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])

    texts = await asyncio.gather(*(read() for _ in range(4)))
    assert sorted("".join(texts).split()) == sorted(map(str, prompt))


async def test_a_stream_that_was_closed_is_at_its_end(async_engine: AsyncMLCEngine) -> None:
    stream = await async_engine.completions.create(**FOREVER, stream=True)
    await anext(stream)
    await stream.aclose()
    await stream.aclose()
    assert [chunk async for chunk in stream] == []
    while await running_requests(async_engine):
        pass


async def test_cancelling_the_task_aborts_streamed_or_not(async_engine: AsyncMLCEngine) -> None:
    async def read() -> None:
        async for _ in await async_engine.completions.create(**FOREVER, stream=True):
            pass

    tasks = [
        asyncio.create_task(read()),
        asyncio.create_task(async_engine.completions.create(**FOREVER)),
    ]
    while await running_requests(async_engine) < 2:
        pass
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    while await running_requests(async_engine):
        pass


async def test_abort_is_awaited_and_ends_the_stream(async_engine: AsyncMLCEngine) -> None:
    stream = await async_engine.completions.create(**FOREVER, stream=True, request_id="mine")
    await anext(stream)
    await async_engine.abort("mine")
    reasons = [chunk.choices[0].finish_reason async for chunk in stream]
    assert reasons[-1] == "abort"


async def test_a_wrong_request_raises_where_it_is_awaited(async_engine: AsyncMLCEngine) -> None:
    with pytest.raises(BadRequest):
        await async_engine.completions.create(prompt=[1], n="two", stream=True)


async def test_terminating_while_a_stream_is_read_ends_it_with_an_error() -> None:
    engine = over_fake(AsyncMLCEngine)
    stream = await engine.completions.create(**FOREVER, stream=True)
    await anext(stream)
    await asyncio.to_thread(engine.terminate)
    with pytest.raises(EngineUnavailable):
        async for _ in stream:
            pass


def test_an_engine_made_outside_any_loop_serves_several_loops() -> None:
    engine = over_fake(AsyncMLCEngine)

    async def ask() -> str:
        return (await engine.completions.create(prompt=[3])).choices[0].text

    assert [asyncio.run(ask()) for _ in range(2)] == [" 3", " 3"]
    engine.terminate()
