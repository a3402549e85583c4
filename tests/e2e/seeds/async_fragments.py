import asyncio

from mlc_llm import AsyncMLCEngine

model = "HF://mlc-ai/Llama-3-8B-Instruct-q4f16_1-MLC"
engine = AsyncMLCEngine(model)


async def main():
    async for response in await engine.chat.completions.create(
      messages=[{"role": "user", "content": "What is the meaning of life?"}],
      model=model,
      stream=True,
    ):
      for choice in response.choices:
          print(choice.delta.content, end="", flush=True)

    response = await engine.chat.completions.create(
      messages=[{"role": "user", "content": "What is the meaning of life?"}],
      model=model,
      stream=False,
    )
    print(response)


asyncio.run(main())
