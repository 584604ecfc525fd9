"""The control API: Cloudflare's v4 shape over records and blobs. It never touches a cell."""
