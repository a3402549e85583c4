"""GGUF, llama.cpp's file format: one file has the weights, the configuration and the tokenizer.

`file` reads the header, `config` and `tokenizer` say in Hugging Face's terms what it describes, and
`unpack` makes a folder of that. The weights stay in the file (`weights.sources.gguf`).
"""
