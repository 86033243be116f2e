"""A local stand-in of the Hugging Face Hub: as much of its HTTP API as a push uses, files kept in memory."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """Repositories by kind and name; `files` of each, and whether it is private."""

    def __init__(self, token):
        self.token, self.repositories, self.uploads, self.asked = token, {}, {}, []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer(404, {"error": "nothing here"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append(self.path)
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._answer(401, {"error": "Invalid credentials"})
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if self.path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        kind, name, what = self._repository()
        if what == "preupload":
            files = json.loads(body)["files"]
            big = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith((".tar", ".safetensors")) else "regular"}
                for f in files
            ]
            return self._answer(200, {"files": [entry | {"shouldIgnore": False} for entry in big]})
        if what == "commit":
            return self._commit(kind, name, body)
        return self._answer(404, {"error": f"no {self.path}"})

    def do_PUT(self):
        self.hub.uploads[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, {})

    def _repository(self):
        _, _, kind, owner, name, what, *_ = self.path.split("/")
        return kind.removesuffix("s"), f"{owner}/{name}", what

    def _create(self, asked):
        kind, name = asked.get("type", "model"), f"{asked.get('organization') or 'me'}/{asked['name']}"
        url = f"{self.hub.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if (kind, name) in self.hub.repositories:
            return self._answer(409, {"url": url, "error": "You already created this repo"})
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.repositories[kind, name] = {"private": bool(private), "files": {}}
        return self._answer(200, {"url": url})

    def _batch(self, asked):
        def one(object_):
            path = f"/store/{object_['oid']}"
            if path in self.hub.uploads:
                return object_
            return object_ | {"actions": {"upload": {"href": self.hub.endpoint + path}}}

        self._answer(200, {"transfer": "basic", "objects": [one(object_) for object_ in asked["objects"]]})

    def _commit(self, kind, name, body):
        files = self.hub.repositories[kind, name]["files"]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[f"/store/{value['oid']}"]
        url = f"{self.hub.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"
        self._answer(200, {"success": True, "commitOid": "0" * 40, "commitUrl": f"{url}/commit/{'0' * 40}"})

    def _answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
