/**
 * A throw-away PostgreSQL server on a loopback port, in a temporary folder; ends with this process, however that goes. As root
 * it runs as `nobody`, for PostgreSQL refuses root.
 */

import { chmodSync, chownSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { freePort } from "../../lib/free-port.ts";
import { findPostgresServer } from "../../scripts/setup.ts";
import { type ArchiveDatabase, selectFrom } from "./archive.ts";
import { eventually } from "./eventually.ts";
import { temporaryFolder } from "./folder.ts";

const NOBODY = 65_534;
/** Ends the server when the pipe to this process does: SIGINT is PostgreSQL's fast shutdown, by its pid of the command's shell. */
const GUARD = `exec 3<&0; "$@" <&- & p=$!; (cat <&3 >/dev/null; kill -INT $p 2>/dev/null) & w=$!; echo $p; wait $p; kill $w 2>/dev/null`;

export interface TestPostgres {
  /** An empty database of its own. */
  database(): Promise<ArchiveDatabase>;
  /** Ends it at once, its connections too; resolves when it is gone. */
  kill(): Promise<void>;
  /** Starts it again on the same port and data after a kill. */
  restart(): Promise<void>;
  stop(): Promise<void>;
}

/** Undefined, with the reason on standard error, where no PostgreSQL is installed. */
export async function startTestPostgres(): Promise<TestPostgres | undefined> {
  const binaries = findPostgresServer();
  if (!binaries) {
    console.error(
      "PostgreSQL is not installed: the archive is tested on SQLite only (Debian: apt-get install postgresql)",
    );
    return undefined;
  }
  const folder = temporaryFolder("postgres");
  const data = join(folder.path, "data");
  mkdirSync(data, { mode: 0o700 });
  chmodSync(folder.path, 0o755);
  const isRoot = process.getuid?.() === 0;
  if (isRoot) chownSync(data, NOBODY, NOBODY);
  const asNobody = isRoot ? ["setpriv", `--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups"] : [];
  const init = [join(binaries, "initdb"), "-D", data, "-U", "skein", "--auth=trust", "--encoding=UTF8", "--locale=C"];
  const made = Bun.spawnSync([...asNobody, ...init, "--no-sync", "--no-instructions"], { cwd: folder.path });
  if (!made.success) throw new Error(`initdb failed: ${made.stderr}`);
  const port = freePort();
  const settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "shared_buffers=32MB"];
  const server = [join(binaries, "postgres"), "-D", data, "-p", `${port}`, ...settings.flatMap((one) => ["-c", one])];
  const url = (name: string) => `postgres://skein@127.0.0.1:${port}/${name}`;
  const ask = (query: string) => selectFrom(url("postgres"), query);

  async function start() {
    const guard = Bun.spawn(["sh", "-c", GUARD, "guard", ...asNobody, ...server], {
      cwd: folder.path,
      stdin: "pipe",
      stdout: "pipe",
      stderr: "ignore",
    });
    const reader = guard.stdout.getReader();
    const { value } = await reader.read();
    reader.releaseLock();
    await eventually(() => ask("SELECT 1"));
    return { guard, pid: Number(new TextDecoder().decode(value).split("\n")[0]) };
  }

  let { guard, pid } = await start();
  let count = 0;
  return {
    async database() {
      const name = `t${++count}`;
      await ask(`CREATE DATABASE ${name}`);
      return {
        url: url(name),
        select: (query) => selectFrom(url(name), query),
        [Symbol.asyncDispose]: async () => undefined,
      };
    },
    async kill() {
      process.kill(pid, "SIGQUIT");
      await guard.exited;
    },
    async restart() {
      ({ guard, pid } = await start());
    },
    async stop() {
      // A test that failed may have left it killed.
      if (guard.exitCode === null) process.kill(pid, "SIGQUIT");
      await guard.exited;
      folder[Symbol.dispose]();
    },
  };
}
