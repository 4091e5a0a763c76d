"""A server on loopback that speaks what brainjax uses of the Hugging Face hub's protocol: repositories, files, commits."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = '5' * 40


class Hub:
  """Repositories in memory: name -> file -> bytes, and how the server behaves.

  Attributes:
    gated: names that answer 403 as gated ones do.
    broken: how often a file's body breaks off in the middle.
    wrong: file whose stated SHA-256 is another one.
    ranges: the Range headers that were asked for.
  """

  def __init__(self):
    self.repositories, self.gated, self.broken, self.wrong, self.ranges, self.requests = {}, set(), 0, '', [], []

  @contextlib.contextmanager
  def running(self):
    """Gives the address."""
    handler = type('Handler', (_Handler,), {'hub': self})
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
      yield f'http://127.0.0.1:{server.server_address[1]}'
    finally:
      server.shutdown()
      server.server_close()


class _Handler(BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  hub: Hub

  def log_message(self, *args):
    pass

  def _answer(self, status, body=b'', **headers):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    self.send_response(status)
    for name, value in {'Content-Length': len(body), **headers}.items():
      self.send_header(name.replace('_', '-'), str(value))
    self.end_headers()
    if self.command != 'HEAD':
      self.wfile.write(body)

  def _repository(self, name):
    """Its files, or None after an answer that refuses it."""
    if name in self.hub.gated:
      self._answer(403, {'error': 'gated'}, X_Error_Code='GatedRepo')
    elif name not in self.hub.repositories:
      self._answer(404, {'error': 'none'}, X_Error_Code='RepoNotFound')
    else:
      return self.hub.repositories[name]

  def do_HEAD(self):
    self.do_GET()

  def do_GET(self):
    path = self.path.partition('?')[0]
    self.hub.requests.append((self.command, path))
    if match := re.fullmatch(r'/api/models/([\w.-]+/[\w.-]+)(?:/revision/(.+))?', path):
      if (files := self._repository(match[1])) is None:
        return
      if match[2] not in (None, 'main', COMMIT):
        return self._answer(404, {'error': 'none'}, X_Error_Code='RevisionNotFound')
      siblings = [
        {
          'rfilename': name,
          'size': len(data),
          'lfs': {'size': len(data), 'sha256': self._stated(name, data), 'pointerSize': 134},
        }
        for name, data in files.items()
      ]
      return self._answer(200, {'id': match[1], 'sha': COMMIT, 'siblings': siblings, 'private': False, 'tags': []})
    if match := re.fullmatch(r'/([\w.-]+/[\w.-]+)/resolve/[^/]+/(.+)', path):
      if (files := self._repository(match[1])) is None:
        return
      if match[2] not in files:
        return self._answer(404, b'', X_Error_Code='EntryNotFound')
      data = files[match[2]]
      etag = hashlib.sha256(data).hexdigest()
      return self._send_file(data, ETag=f'"{etag}"', X_Repo_Commit=COMMIT)
    if path.startswith('/files/') and path[7:] in self.hub.repositories:
      return self._send_file(self.hub.repositories[path[7:]])
    self._answer(404)

  def _stated(self, name, data):
    return hashlib.sha256(b'other' if name == self.hub.wrong else data).hexdigest()

  def _send_file(self, data, **headers):
    status = 200
    if wanted := self.headers.get('Range'):
      self.hub.ranges.append(wanted)
      start = int(re.match(r'bytes=(\d+)-', wanted)[1])
      if start >= len(data):
        return self._answer(416)
      headers['Content_Range'] = f'bytes {start}-{len(data) - 1}/{len(data)}'
      data, status = data[start:], 206
    if self.command == 'GET' and self.hub.broken and len(data) > 3000:
      self.hub.broken -= 1
      self.send_response(status)
      for name, value in {'Content-Length': len(data), **headers}.items():
        self.send_header(name.replace('_', '-'), str(value))
      self.end_headers()
      self.wfile.write(data[: len(data) // 2])
      self.wfile.flush()
      self.close_connection = True
      return self.connection.shutdown(2)
    self._answer(status, data, **headers)

  def do_POST(self):
    body = self.rfile.read(int(self.headers['Content-Length']))
    self.hub.requests.append((self.command, self.path))
    if self.path == '/api/repos/create':
      made = json.loads(body)
      name = f'{made["organization"]}/{made["name"]}'
      self.hub.repositories.setdefault(name, {})
      return self._answer(200, {'url': f'http://{self.headers["Host"]}/{name}'})
    if self.path == '/api/validate-yaml':
      return self._answer(200, {'errors': [], 'warnings': []})
    if match := re.fullmatch(r'/api/models/([\w.-]+/[\w.-]+)/preupload/main', self.path.partition('?')[0]):
      files = [
        {'path': file['path'], 'uploadMode': 'regular', 'shouldIgnore': False} for file in json.loads(body)['files']
      ]
      return self._answer(200, {'files': files})
    if match := re.fullmatch(r'/api/models/([\w.-]+/[\w.-]+)/commit/main', self.path.partition('?')[0]):
      for line in map(json.loads, body.splitlines()):
        if line['key'] == 'file':
          content = base64.b64decode(line['value']['content'])
          self.hub.repositories[match[1]][line['value']['path']] = content
      host = self.headers['Host']
      return self._answer(
        200, {'success': True, 'commitUrl': f'http://{host}/{match[1]}/commit/{COMMIT}', 'commitOid': COMMIT}
      )
    self._answer(404)
