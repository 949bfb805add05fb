"""OpenAI's own client against a server on loopback."""

from __future__ import annotations

import base64
import threading
import time

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")
pytest.importorskip("openai")

import openai
import uvicorn

import csr_st
from csr_st.serving import Limits, create_app
from csr_st.serving.running import bound, url_of

TOKEN = "sk-of-this-test"


@pytest.fixture
def client(model):
    """A client of a server in a thread of this process."""
    app = create_app(model, token=TOKEN, name="tiny", limits=Limits(inputs=8, characters=50))
    opened = bound("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    end = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < end
        time.sleep(0.01)
    with openai.OpenAI(base_url=f"{url_of(opened)}/v1", api_key=TOKEN, max_retries=0) as made:
        yield made
    server.should_exit = True
    thread.join()
    opened.close()


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_embeddings_of_each_encoding_are_the_dense_vectors(client, model, texts, encoding):
    """Without an encoding the client asks for base64 and decodes it itself."""
    given = {} if encoding is None else {"encoding_format": encoding}
    answer = client.embeddings.create(model="tiny", input=texts, **given)
    assert answer.object == "list"
    assert answer.model == "tiny"
    assert [one.index for one in answer.data] == list(range(5))
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 17
    expected = csr_st.encode_dense(model, texts)
    if encoding == "base64":
        found = [np.frombuffer(base64.b64decode(one.embedding), "<f4") for one in answer.data]
    else:
        found = [one.embedding for one in answer.data]
    assert np.array_equal(np.array(found, np.float32), expected)


def test_one_text_a_role_and_the_width_as_dimensions(client, model):
    answer = client.embeddings.create(
        model="tiny", input="cat", dimensions=16, user="me", extra_body={"role": "query"}
    )
    expected = csr_st.encode_dense(model, ["cat"], role="query")[0]
    assert np.array_equal(np.array(answer.data[0].embedding, np.float32), expected)


def test_errors_are_those_of_the_client(client):
    with pytest.raises(openai.UnprocessableEntityError, match="the vectors have 16"):
        client.embeddings.create(model="tiny", input="cat", dimensions=4)
    with pytest.raises(openai.UnprocessableEntityError, match="must be a text"):
        client.embeddings.create(model="tiny", input=[[1, 2]])
    with pytest.raises(openai.APIStatusError, match="51 characters, and 50 is the most") as error:
        client.embeddings.create(model="tiny", input="x" * 51)
    assert error.value.status_code == 413
    assert error.value.type == "invalid_request_error"
    wrong = client.with_options(api_key="sk-wrong")
    with pytest.raises(openai.AuthenticationError, match="token is missing or wrong"):
        wrong.embeddings.create(model="tiny", input="cat")
