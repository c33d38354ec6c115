"""The server: every task of one model over HTTP, in the API of OpenAI."""
