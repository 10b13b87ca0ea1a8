"""Certificates for the tests, made with the `openssl` command line."""

import shutil
import ssl
import subprocess
from pathlib import Path

from raftkv.config import TlsFiles


class Authority:
    """A CA in its own directory."""

    def __init__(self, directory: Path) -> None:
        assert shutil.which("openssl"), "the openssl command is needed to make certificates"
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        (directory / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        self._new("-x509", "-days=2", f"-subj=/CN={directory.name}", name="ca")
        self.ca = directory / "ca.pem"

    def _run(self, *words: str) -> None:
        command = ["openssl", *words]
        done = subprocess.run(
            command, cwd=self._directory, capture_output=True, timeout=60, check=False
        )
        assert not done.returncode, f"{command}: {done.stderr.decode(errors='replace')}"

    def _new(self, *words: str, name: str) -> None:
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        split = [part for word in words for part in word.split("=", 1)]
        out = "ca.pem" if "-x509" in words else f"{name}.csr"
        self._run("req", *curve, *split, "-keyout", f"{name}.key", "-out", out)

    def certificate(self, name: str) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1 and its key, for either side of a connection."""
        cert, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        if not cert.exists():
            self._new(f"-subj=/CN={name}", name=name)
            sign = ("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key")
            more = ("-CAcreateserial", "-days", "2", "-extfile", "names", "-out", f"{name}.pem")
            self._run(*sign, *more)
        return cert, key

    def files(self, name: str, *, demand: bool) -> TlsFiles:
        """A server's TLS settings. demand: clients must show a certificate of this CA."""
        cert, key = self.certificate(name)
        return TlsFiles(cert, key, self.ca, demand)

    def client(
        self, name: str | None = None, alpn: tuple[str, ...] = ("h2",), trust: Path | None = None
    ) -> ssl.SSLContext:
        """A client's context. name: of its certificate, None: none. trust: another CA's file."""
        context = ssl.create_default_context(cafile=str(trust or self.ca))
        if name is not None:
            context.load_cert_chain(*self.certificate(name))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context
