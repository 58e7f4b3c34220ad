"""What OpenAI's own Python client sees of `infinity serve`. Usage: openai_client.py http://127.0.0.1:8080

Needs the package `openai`. Ends with an error if an answer is not what the client expects.
"""

import sys

import openai

address = sys.argv[1]
client = openai.OpenAI(base_url=f"{address}/v1", api_key="none")
model = client.models.list().data[0].id
greedy = dict(model=model, max_tokens=16, temperature=0)

whole = client.completions.create(prompt="One day", **greedy)
text = whole.choices[0].text
assert text and whole.usage.completion_tokens <= 16, whole
parts = client.completions.create(prompt="One day", stream=True, **greedy)
assert "".join(part.choices[0].text for part in parts if part.choices) == text
other = client.completions.create(prompt="Another day", **greedy)
assert other.choices[0].text != text, "two prompts, one answer: this check cannot fail"

scored = client.completions.create(model=model, prompt="One day", max_tokens=2, logprobs=2, echo=True, temperature=0)
logprobs = scored.choices[0].logprobs
assert logprobs.token_logprobs[0] is None and all(x <= 0 for x in logprobs.token_logprobs[1:]), logprobs
assert "".join(logprobs.tokens) == scored.choices[0].text, scored

many = client.completions.create(model=model, prompt=["One", "Two"], max_tokens=3, n=2, seed=1)
assert [choice.index for choice in many.choices] == [0, 1, 2, 3], many

talk = [{"role": "user", "content": "Tell me a story"}]
said = client.chat.completions.create(messages=talk, **greedy).choices[0].message
assert said.role == "assistant" and said.content is not None
parts = client.chat.completions.create(messages=talk, stream=True, **greedy)
streamed = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
assert streamed == said.content, (streamed, said.content)

refused = [
    (404, dict(model="no such model", prompt="a")),
    (400, dict(model=model, prompt="a", max_tokens=-1)),
    (400, dict(model=model, prompt="a", temperature=9e9)),
]
for status, request in refused:
    try:
        client.completions.create(**request)
    except openai.APIStatusError as error:
        assert error.status_code == status, error
    else:
        raise AssertionError(f"{request} was answered")
print("openai", openai.__version__, "ok")
