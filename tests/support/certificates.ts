/** A certificate for a made-up host, by the system's openssl, for tests of TLS. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "./folder.ts";

export interface Certificate {
  readonly cert: string;
  readonly key: string;
}

/** Self-signed, so it is its own authority. */
export function certificateFor(host: string): Certificate {
  using folder = temporaryFolder("cert");
  const [cert, key] = [join(folder.path, "cert.pem"), join(folder.path, "key.pem")];
  const made = Bun.spawnSync([
    ...["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", cert],
    ...["-subj", `/CN=${host}`, "-addext", `subjectAltName=DNS:${host}`],
  ]);
  if (made.exitCode !== 0) throw new Error(`openssl: ${made.stderr}`);
  return { cert: readFileSync(cert, "utf8"), key: readFileSync(key, "utf8") };
}
