from mlc_llm import MLCEngine; print(MLCEngine)
