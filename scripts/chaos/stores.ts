/** What the archive and the three example services hold, read from their files by a process that is none of Skein's. */

import { Database } from "bun:sqlite";
import { createHash } from "node:crypto";
import { join } from "node:path";
import type { Timelines } from "./readers.ts";
import { diverge, type Judgement, type SeenMessage } from "./verdict.ts";

/** The examples, each with a ledger of its effects (workers/examples/ledger.ts). */
export const SERVICES = ["orders", "trades", "ads"] as const;

interface LedgerRow {
  readonly conversation: string;
  readonly messages: number;
  readonly missed: number;
  readonly digest: string;
}

interface Record {
  readonly seq: number;
  readonly id: string;
  readonly from: string;
  readonly body: { readonly text: string };
}

/** Messages archived; the effects of each service. For waiting until all have caught up. */
export function countEffects(dataDir: string): readonly number[] {
  const archived = query<{ count: number }>(
    dataDir,
    "archive",
    "SELECT count(*) AS count FROM entries WHERE kind = 'message'",
  );
  const effects = SERVICES.map((name) =>
    query<{ count: number }>(dataDir, name, "SELECT sum(messages) AS count FROM ledger"),
  );
  return [archived, ...effects].map((rows) => rows[0]?.count ?? 0);
}

export function readArchive(dataDir: string): Timelines {
  const rows = query<{ conversation: string; seq: number; record: string }>(
    dataDir,
    "archive",
    "SELECT conversation, seq, record FROM entries WHERE kind = 'message' ORDER BY conversation, seq",
  );
  const timelines = new Map<string, SeenMessage[]>();
  for (const { conversation, seq, record } of rows) {
    const { id, from, body } = JSON.parse(record) as Record;
    const timeline = timelines.get(conversation) ?? [];
    timeline.push({ seq, id, from, text: body.text });
    timelines.set(conversation, timeline);
  }
  return timelines;
}

/**
 * Adds a divergence for each conversation of which a service saw more, fewer, other, or differently ordered messages than the
 * timeline has: its digest rolls over ids and texts in the order of their effect.
 */
export function checkLedgers(judgement: Judgement, dataDir: string, timelines: Timelines): void {
  for (const service of SERVICES) {
    const rows = query<LedgerRow>(dataDir, service, "SELECT conversation, messages, missed, digest FROM ledger");
    const ledger = new Map(rows.map((row) => [row.conversation, row]));
    for (const [conversation, timeline] of timelines) {
      const row = ledger.get(conversation);
      if (row?.messages !== timeline.length || row.missed !== 0) {
        const seen = `${row?.messages ?? 0} effects, ${row?.missed ?? 0} missed`;
        diverge(judgement, `${service} in ${conversation}: ${seen}, of ${timeline.length} messages`);
      } else if (row.digest !== digestOf(timeline)) {
        diverge(judgement, `${service} in ${conversation}: other texts, or in another order`);
      }
    }
  }
}

function digestOf(timeline: readonly SeenMessage[]): string {
  let digest = "";
  for (const { id, text } of timeline) digest = createHash("sha256").update(`${digest}${id}\n${text}`).digest("hex");
  return digest;
}

function query<T>(dataDir: string, name: string, sql: string): T[] {
  const database = new Database(join(dataDir, `${name}.db`), { readonly: true });
  try {
    database.run("PRAGMA busy_timeout = 5000");
    return database.query<T, []>(sql).all();
  } finally {
    database.close();
  }
}
