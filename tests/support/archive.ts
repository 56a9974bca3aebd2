/** What tests of the archive share: entries to write, and an SQLite database to write them to. */

import { join } from "node:path";
import { SQL } from "bun";
import type { NewEntry } from "../../lib/archive/index.ts";
import { temporaryFolder } from "./folder.ts";

/** An empty database of one test. */
export interface ArchiveDatabase extends AsyncDisposable {
  /** For openArchive. */
  readonly url: string;
  /** What another process sees. */
  select(query: string): Promise<Record<string, unknown>[]>;
}

export function entry(seq: number, more: Partial<NewEntry> = {}): NewEntry {
  const id = `m${seq}`;
  const record = JSON.stringify({ seq, id, body: { text: `text ${seq}` } });
  return {
    conversation: "c1",
    epoch: "e1",
    seq,
    kind: "message",
    id,
    ordinal: seq,
    record,
    committedAt: 1_000 + seq,
    ...more,
  };
}

export function entries(from: number, to: number, more: Partial<NewEntry> = {}): NewEntry[] {
  return Array.from({ length: to - from + 1 }, (_, i) => entry(from + i, more));
}

export async function sqliteDatabase(): Promise<ArchiveDatabase> {
  const folder = temporaryFolder("archive");
  const url = `sqlite://${join(folder.path, "data", "archive.db")}`;
  return {
    url,
    select: (query) => selectFrom(url, query),
    [Symbol.asyncDispose]: async () => folder[Symbol.dispose](),
  };
}

export async function selectFrom(url: string, query: string): Promise<Record<string, unknown>[]> {
  const sql = new SQL(url);
  const rows = [...(await sql.unsafe(query))];
  await sql.close();
  return rows;
}
