/**
 * The data dir belongs to one Skein at a time. The lock is SQLite's exclusive file lock: the operating system drops it when its
 * holder dies, by kill -9 too, so nothing stale is ever left to clean up. (A pid file was the alternative: pids are reused.)
 */

import { Database } from "bun:sqlite";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
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

/** Takes the data dir. Throws AppError CONFLICT naming the holder when another Skein runs on it. */
export function lockDataDir(dataDir: string): { release(): void } {
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  const database = new Database(join(dataDir, "lock.db"));
  try {
    database.exec(
      "PRAGMA busy_timeout = 0; PRAGMA journal_mode = MEMORY; PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE",
    );
  } catch (cause) {
    database.close();
    const holder = readRun(dataDir)?.pid;
    const who = holder === undefined ? "" : ` (pid ${holder})`;
    const detail = `another Skein runs on the data dir ${dataDir}${who}; stop it, or set SKEIN_DATA_DIR to another folder`;
    throw new AppError("CONFLICT", detail, { cause });
  }
  return { release: () => database.close() };
}

export function readRun(dataDir: string): Run | undefined {
  try {
    return JSON.parse(readFileSync(join(dataDir, "run.json"), "utf8")) as Run;
  } catch (error) {
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

export function writeRun(dataDir: string, run: Run): void {
  writeFileSync(join(dataDir, "run.json"), JSON.stringify(run, undefined, 2), { mode: 0o600 });
}

export function removeRun(dataDir: string): void {
  rmSync(join(dataDir, "run.json"), { force: true });
}

/** Folder of this installation's unix sockets: short whatever the data dir is, for a socket's path has at most 103 bytes. */
export function socketFolder(dataDir: string): string {
  let hash = 0x811c9dc5;
  for (let i = 0; i < dataDir.length; i++) hash = Math.imul(hash ^ dataDir.charCodeAt(i), 0x01000193);
  return join(tmpdir(), `skein-${(hash >>> 0).toString(36)}`);
}
