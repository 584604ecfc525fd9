"""Bindings that cannot be had on one's own machines, and what a worker uses instead.

Pure. Each is refused by name at the upload, so that nobody finds out from a visitor.
"""

INSTEAD = {
    "ai": "Call a model server of your own (Ollama, vLLM) with fetch, and let egress reach it.",
    "vectorize": "Keep vectors in PostgreSQL with pgvector, or in D1 for some thousands of them.",
    "browser": "Run a browser of your own (browserless, Chromium) and call it with fetch.",
    "images": "Resize with a WebAssembly module in the worker (photon, squoosh), or with imgproxy"
    " behind fetch.",
    "stream": "Keep videos in R2 and serve them as HLS; encode with ffmpeg beforehand.",
    "send_email": "Hand mail to an SMTP relay or a mail service's HTTP API with connect() or fetch.",
    "pipelines": "Write to a queue whose consumer stores batches in R2.",
    "mtls_certificate": "Call a proxy of your own that has the client certificate, with fetch.",
    "logfwdr": "Take the platform's logs: `kythera tail`, or a worker's console in the journal.",
    "tail": "`wrangler tail` and `kythera tail` show traces; send what you log on with fetch.",
    "secret_key": "Give the key as a secret_text and import it with crypto.subtle.importKey.",
    "containers": "Run the container beside the platform and call it with fetch.",
}
"""By the type of a binding: a sentence for whoever deploys."""
