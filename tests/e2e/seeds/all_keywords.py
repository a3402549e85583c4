from mlc_llm import MLCEngine

model = "models/phi-2"
engine = MLCEngine(
    model,
    "auto",
    model_lib=None,
    mode="interactive",
    additional_models=None,
    max_batch_size=2,
    max_total_sequence_length=512,
    prefill_chunk_size=64,
    max_history_size=None,
    gpu_memory_utilization=0.5,
    speculative_mode="disable",
    spec_draft_length=4,
    enable_tracing=True,
    verbose=False,
)
print(engine.engine_config.max_num_sequence, engine.engine_config.max_total_sequence_length)
engine.abort("a request that is not there")
engine.terminate()
