/**
 * The judgement from outside, when all is played: a fresh client pages the whole history; the archive's file and the three
 * example services' files are read as anyone could read them. Each is compared, message by message, with what was sent.
 */

import { Database } from "bun:sqlite";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { connect, type Entry, type Message } from "../../lib/client/index.ts";
import { foldedMessage } from "../../lib/im/index.ts";
import { type Held, type HeldByStage, linesNow, toLine } from "./agree.ts";
import { type Check, createCheck, eventuallyClean, type Finding } from "./finding.ts";
import { canonical, foldAll, isSameEntry } from "./seen.ts";
import type { Line, Stage } from "./stage.ts";

export const SERVICES = ["orders", "trades", "ads"] as const;
const PAGE = 200;
/** Groups read at their own pace: after a replay they are seconds behind, after a kill as long as a lease. */
const CATCH_UP_MS = 120_000;

/** Pages a whole conversation by `message.history` over a connection of its own, and compares. */
export async function checkHistory(url: string, token: string, held: HeldByStage): Promise<Finding> {
  const client = connect({ url, token });
  const check = createCheck("history");
  try {
    for (const [stage, fresh] of held) {
      const found = new Map<number, string>();
      const lines: Line[] = [];
      for (let after = 0, more = true; more; ) {
        const page = await client.history(stage.conversation, { after, limit: PAGE });
        for (const message of page.messages) {
          found.set(message.seq, canonical(message));
          lines.push(toLine(message));
        }
        more = page.more && page.messages.length > 0;
        after = page.messages.at(-1)?.seq ?? after;
        if (page.head !== stage.head) check.fault("different", stage, `head is ${page.head}, sent was ${stage.head}`);
      }
      check.compare(stage, linesNow(stage), lines);
      compareMessages(check, stage, "history", found, fresh.messages);
    }
  } finally {
    client.close();
  }
  return check.finding();
}

/**
 * Compares the archive's rows: every seq of the timeline, every message as it was sent, and as its entries and its parts make it
 * now. Undefined when the file is not there.
 */
export async function checkArchive(
  dataDir: string,
  held: HeldByStage,
  catchUpMs = CATCH_UP_MS,
): Promise<Finding | undefined> {
  const path = join(dataDir, "archive.db");
  if (!existsSync(path)) return undefined;
  return eventuallyClean(catchUpMs, () => {
    using database = new Database(path, { readonly: true });
    const rows = database.query<ArchiveRow, [string, string]>(
      "SELECT seq, kind, record FROM entries WHERE conversation = ? AND epoch = ? ORDER BY seq",
    );
    const parts = database.query<PartRow, [string, string]>(
      "SELECT seq, part, text FROM parts WHERE conversation = ? AND epoch = ? AND text IS NOT NULL",
    );
    const check = createCheck("archive.db");
    for (const [stage, fresh] of held) {
      const entries = rows.all(stage.conversation, stage.epoch);
      compareRows(check, stage, entries, fresh);
      const partsBySeq = Map.groupBy(parts.all(stage.conversation, stage.epoch), ({ seq }) => seq);
      const folded = entries
        .filter(({ kind }) => kind === "message")
        .map(({ seq, record }) => {
          const own = (partsBySeq.get(seq) ?? []).map(({ part, text }) => [part, text] as const);
          return [seq, canonical(foldedMessage(record, Object.fromEntries(own)))] as const;
        });
      compareMessages(check, stage, "the archive's parts", new Map(folded), fresh.messages);
    }
    return check.finding();
  });
}

function compareRows(check: Check, stage: Stage, rows: readonly ArchiveRow[], fresh: Held): void {
  const misplaced = rows.findIndex(({ seq }, i) => seq !== i + 1);
  if (misplaced >= 0) check.fault("lost", stage, `row ${misplaced + 1} has seq ${rows[misplaced]!.seq}`);
  if (rows.length !== stage.head) check.fault("lost", stage, `${rows.length} rows of ${stage.head}`);
  const entries = rows.map(toEntry);
  for (const entry of entries) {
    const expected = fresh.entries.get(entry.seq);
    if (expected && isSameEntry(entry, expected)) continue;
    const texts = { text: canonical(entry), expected: expected && canonical(expected) };
    check.agree(stage, entry.seq, { who: "the archive", ...texts });
  }
  const sent = entries.flatMap((entry) => (entry.kind === "message" ? [toLine(entry.message)] : []));
  check.compare(stage, stage.lines, sent);
  compareMessages(check, stage, "the archive's entries", foldAll(entries), fresh.messages);
}

function toEntry({ seq, kind, record }: ArchiveRow): Entry {
  if (kind !== "message") return JSON.parse(record) as Entry;
  const message = JSON.parse(record) as Message;
  return { kind: "message", seq, id: message.id, message };
}

function compareMessages(check: Check, stage: Stage, who: string, found: Messages, expected: Messages): void {
  for (const seq of new Set([...found.keys(), ...expected.keys()])) {
    check.agree(stage, seq, { who, text: found.get(seq), expected: expected.get(seq) });
  }
}

/**
 * Compares a service's ledger: per conversation the number of messages, the last one's seq, and a digest over all of them in
 * the order of their effect: digest(n) = sha256(digest(n-1) + id + "\n" + text), beginning with "".
 */
export async function checkService(
  dataDir: string,
  service: string,
  stages: readonly Stage[],
  catchUpMs = CATCH_UP_MS,
): Promise<Finding | undefined> {
  const path = join(dataDir, `${service}.db`);
  if (!existsSync(path)) return undefined;
  return eventuallyClean(catchUpMs, () => {
    using database = new Database(path, { readonly: true });
    const ledger = database.query<LedgerRow, [string, string]>(
      "SELECT last_seq, messages, digest FROM ledger WHERE conversation = ? AND epoch = ?",
    );
    const check = createCheck(service);
    for (const stage of stages) {
      const { last_seq: lastSeq, messages, digest } = ledger.get(stage.conversation, stage.epoch) ?? NO_LEDGER;
      const { lines } = stage;
      check.count(messages);
      if (messages < lines.length)
        check.fault("lost", stage, `${messages} of ${lines.length}`, lines.length - messages);
      else if (messages > lines.length) {
        check.fault("doubled", stage, `${messages} of ${lines.length}`, messages - lines.length);
      } else if (digest !== digestOf(lines)) check.fault("different", stage, "the digest differs");
      const last = lines.at(-1)?.seq ?? 0;
      if (lastSeq < last || lastSeq > stage.head)
        check.fault("different", stage, `last_seq ${lastSeq}, sent was ${last}`);
    }
    return check.finding();
  });
}

type Messages = Held["messages"];

interface PartRow {
  readonly seq: number;
  readonly part: string;
  readonly text: string;
}

interface ArchiveRow {
  readonly seq: number;
  readonly kind: string;
  readonly record: string;
}

interface LedgerRow {
  readonly last_seq: number;
  readonly messages: number;
  readonly digest: string;
}

const NO_LEDGER: LedgerRow = { last_seq: 0, messages: 0, digest: "" };

function digestOf(lines: readonly Line[]): string {
  let digest = "";
  for (const { id, text } of lines) {
    digest = new Bun.CryptoHasher("sha256").update(`${digest}${id}\n${text}`).digest("hex");
  }
  return digest;
}
