"""An SFTP server on loopback, for one folder, that counts the bytes that it sends."""
import contextlib
import os
import socket
import threading

import paramiko

USER, PASSWORD = "backup", "secret"


class _Login(paramiko.ServerInterface):
    def check_auth_password(self, username, password):
        return paramiko.AUTH_SUCCESSFUL if (username, password) == (USER, PASSWORD) else paramiko.AUTH_FAILED

    def check_channel_request(self, kind, number):
        return paramiko.OPEN_SUCCEEDED


class _Handle(paramiko.SFTPHandle):
    def __init__(self, file, served):
        super().__init__(os.O_RDONLY)
        self.readfile = file
        self._served = served

    def read(self, offset, length):
        data = super().read(offset, length)
        self._served.sent += len(data) if isinstance(data, bytes) else 0
        return data

    def stat(self):
        return paramiko.SFTPAttributes.from_stat(os.fstat(self.readfile.fileno()))


class _Files(paramiko.SFTPServerInterface):
    def __init__(self, server, served):
        super().__init__(server)
        self._served = served

    def _local(self, path):
        return os.path.join(self._served.folder, self.canonicalize(path).lstrip("/"))

    def list_folder(self, path):
        folder = self._local(path)
        if folder in self._served.refused:
            return paramiko.SFTP_PERMISSION_DENIED
        try:
            return [paramiko.SFTPAttributes.from_stat(os.stat(os.path.join(folder, name)), name)
                    for name in os.listdir(folder)]
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    def stat(self, path):
        try:
            return paramiko.SFTPAttributes.from_stat(os.stat(self._local(path)))
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    lstat = stat

    def open(self, path, flags, attr):
        try:
            return _Handle(open(self._local(path), "rb"), self._served)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)


class Served:
    """``url(name)``: of a file in the folder; ``sent``: bytes of file contents that were sent; ``refused``: folders,
    by their local path, that aren't listed."""

    def __init__(self, folder, port):
        self.folder, self.sent, self.refused = str(folder), 0, set()
        self._base = "sftp://{}:{}@127.0.0.1:{}/".format(USER, PASSWORD, port)

    def url(self, name):
        return self._base + name


@contextlib.contextmanager
def serving(folder):
    key = paramiko.RSAKey.generate(2048)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(5)
    served, transports = Served(folder, listening.getsockname()[1]), []

    def accept():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                transport = paramiko.Transport(connection)
                transports.append(transport)
                transport.add_server_key(key)
                transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Files, served)
                transport.start_server(server=_Login())

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield served
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()
        for transport in transports:
            transport.close()
