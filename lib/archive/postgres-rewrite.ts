/**
 * What erasure asks of the PostgreSQL archive. What a row was before is gone for every statement at once, and from the server's
 * files when its autovacuum and the turn of its log have passed: both are the operator's, as backups are.
 */

import { type Connections, rowsOf } from "./connections.ts";
import type { FindPage, Rewrite } from "./contract.ts";
import type { ArchiveStore } from "./store.ts";

const BEGIN = { timeline: 0, seq: 0 };
const END = { timeline: Number.MAX_SAFE_INTEGER, seq: Number.MAX_SAFE_INTEGER };

/** The `count`th entry from a place on. */
const PAGE_END = `SELECT timeline::float8, seq::float8 FROM timeline_entries WHERE (timeline, seq) > ($1::bigint, $2::bigint)
  ORDER BY timeline_entries.timeline, timeline_entries.seq LIMIT 1 OFFSET $3`;

const WITHIN = "(timeline, seq) > ($1::bigint, $2::bigint) AND (timeline, seq) <= ($3::bigint, $4::bigint)";

const RECORDS = `SELECT conversation, epoch, seq::float8, kind, record
  FROM timeline_entries JOIN timelines ON number = timeline WHERE ${WITHIN} AND strpos(record, $5) > 0`;

const PARTS = `SELECT conversation, epoch, seq::float8, part, text FROM timeline_parts JOIN timelines ON number = timeline
  WHERE ${WITHIN} AND text IS NOT NULL AND (part = $6 OR strpos(text, $5) > 0)`;

const SET_RECORDS = `UPDATE timeline_entries AS entry SET record = given.record
  FROM ${rowsOf("conversation text, epoch text, seq bigint, record text")} JOIN timelines USING (conversation, epoch)
  WHERE timeline = number AND entry.seq = given.seq AND given.record IS NOT NULL`;

const SET_PARTS = `INSERT INTO timeline_parts SELECT number, seq, part, seq, text
  FROM ${rowsOf("conversation text, epoch text, seq bigint, part text, text text")} JOIN timelines USING (conversation, epoch)
  WHERE text IS NOT NULL ON CONFLICT (timeline, seq, part) DO UPDATE SET text = excluded.text`;

const REMOVE_PARTS = `DELETE FROM timeline_parts AS old
  USING ${rowsOf("conversation text, epoch text, seq bigint, part text, text text")} JOIN timelines USING (conversation, epoch)
  WHERE timeline = number AND old.seq = given.seq AND old.part = given.part AND given.text IS NULL`;

const REMOVE_WORDS = `DELETE FROM timeline_words AS old
  USING ${rowsOf("conversation text, epoch text, seq bigint, unsearchable boolean")} JOIN timelines USING (conversation, epoch)
  WHERE timeline = number AND old.seq = given.seq AND given.unsearchable`;

export function createRewriting(connections: Connections): Pick<ArchiveStore, "find" | "rewrite" | "scrub"> {
  return {
    find: ({ text, part, from = BEGIN, count }) =>
      connections.run(async (sql) => {
        const [next] = await sql.unsafe(PAGE_END, [from.timeline, from.seq, count - 1]);
        const to = next ?? END;
        const bounds = [from.timeline, from.seq, to.timeline, to.seq];
        const records: FindPage["records"] = [...(await sql.unsafe(RECORDS, [...bounds, text]))];
        const parts: FindPage["parts"] = [...(await sql.unsafe(PARTS, [...bounds, text, part]))];
        return next ? { records, parts, next } : { records, parts };
      }),
    rewrite: (entries) =>
      connections.transaction(async (sql) => {
        const rows = JSON.stringify(entries);
        const parts = JSON.stringify(entries.flatMap(partRows));
        await sql.unsafe(SET_RECORDS, [rows]);
        await sql.unsafe(SET_PARTS, [parts]);
        await sql.unsafe(REMOVE_PARTS, [parts]);
        await sql.unsafe(REMOVE_WORDS, [rows]);
      }),
    scrub: async () => ({ more: false }),
  };
}

function partRows({ conversation, epoch, seq, parts = {} }: Rewrite) {
  return Object.entries(parts).map(([part, text]) => ({ conversation, epoch, seq, part, text }));
}
