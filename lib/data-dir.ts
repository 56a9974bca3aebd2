/**
 * The data dir: who owns it, what runs on it, where its unix sockets are.
 *
 * With an embedded Redis it belongs to one Skein at a time. The lock is SQLite's exclusive file lock: the operating system drops it when its
 * holder dies, by kill -9 too, so nothing stale is ever left to clean up. (A pid file was the alternative: pids are reused.)
 */

import { Database } from "bun:sqlite";
import { lstatSync, mkdirSync, readFileSync, renameSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AppError } from "./errors.ts";

/** What runs on a data dir, for the command line and for tests: `run.json`, readable by its owner only. */
export interface Run {
  readonly pid: number;
  /** The first gateway's, and all. Empty while starting. */
  readonly url: string;
  readonly urls: readonly string[];
  readonly redisUrl: string;
  /** Unit name -> pid; `redis` is the embedded one's. Kept up to date over restarts. */
  readonly pids: Readonly<Record<string, number>>;
  /** Every unit has been ready. */
  readonly ready: boolean;
}

/** Takes the data dir. Throws AppError CONFLICT naming the holder when another Skein runs on it, INVALID when it cannot be written. */
export function lockDataDir(dataDir: string): { release(): void } {
  let database: Database | undefined;
  try {
    mkdirSync(dataDir, { recursive: true, mode: 0o700 });
    database = new Database(join(dataDir, "lock.db"));
    database.exec(
      "PRAGMA busy_timeout = 0; PRAGMA journal_mode = MEMORY; PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE",
    );
  } catch (cause) {
    database?.close();
    if ((cause as { code?: string }).code !== "SQLITE_BUSY") {
      const reason = (cause as Error).message;
      throw new AppError("INVALID", `SKEIN_DATA_DIR ${dataDir} cannot be written: ${reason}`, { cause });
    }
    const holder = readRun(dataDir)?.pid;
    const who = holder === undefined ? "" : ` (pid ${holder})`;
    const detail = `another Skein runs on the data dir ${dataDir}${who}; stop it, or set SKEIN_DATA_DIR to another folder`;
    throw new AppError("CONFLICT", detail, { cause });
  }
  const held = database;
  return { release: () => held.close() };
}

export function readRun(dataDir: string): Run | undefined {
  try {
    return JSON.parse(readFileSync(join(dataDir, "run.json"), "utf8")) as Run;
  } catch (error) {
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Readers see the old one or the new one, never a part. */
export function writeRun(dataDir: string, run: Run): void {
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  const draft = join(dataDir, `run.${process.pid}.json`);
  writeFileSync(draft, JSON.stringify(run, undefined, 2), { mode: 0o600 });
  renameSync(draft, join(dataDir, "run.json"));
}

export function removeRun(dataDir: string): void {
  rmSync(join(dataDir, "run.json"), { force: true });
}

/**
 * Makes the folder for the unix sockets of this data dir: short whatever the data dir is, for a socket's path has at most 103
 * bytes. Throws AppError FORBIDDEN when somebody else made it: the names in the system's temporary folder can be guessed.
 */
export function socketFolder(dataDir: string): string {
  let hash = 0x811c9dc5;
  for (let i = 0; i < dataDir.length; i++) hash = Math.imul(hash ^ dataDir.charCodeAt(i), 0x01000193);
  const folder = join(tmpdir(), `skein-${(hash >>> 0).toString(36)}`);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const found = lstatSync(folder);
  if (!found.isDirectory() || found.uid !== process.getuid?.() || (found.mode & 0o077) !== 0) {
    throw new AppError("FORBIDDEN", `${folder} must be a folder that only this user can enter (mode 0700): remove it`);
  }
  return folder;
}

/** Removes the folder of the sockets when nobody has one in it any more. */
export function removeSocketFolder(dataDir: string): void {
  try {
    rmdirSync(socketFolder(dataDir));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // Another supervisor of the same data dir still uses it, or there never was one (RPC over TCP).
    if (code !== "ENOTEMPTY" && code !== "ENOENT") throw error;
  }
}
