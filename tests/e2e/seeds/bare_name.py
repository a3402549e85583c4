from mlc_llm import MLCEngine

model = "phi-2-q4f16_1-MLC"  # in dist/
with MLCEngine(model) as engine:
    response = engine.chat.completions.create(
        messages=[{"role": "user", "content": "Hi"}], model=model, max_tokens=4
    )
    print(response.model, len(response.choices))
