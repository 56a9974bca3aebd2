/**
 * The judgement from outside, when all is played: a fresh client pages the whole history; the archive's file and the three
 * example services' files are read as anyone could read them. Each is compared, message by message, with what was sent.
 */

import { Database } from "bun:sqlite";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { connect } from "../../lib/client/index.ts";
import { type Faults, type Line, noFaults, type Stage } from "./stage.ts";

export const SERVICES = ["orders", "trades", "ads"] as const;
const PAGE = 200;
/** Groups read at their own pace: after a replay they are seconds behind, after a kill as long as a lease. */
const CATCH_UP_MS = 120_000;
const POLL_MS = 200;
const EXAMPLES_MAX = 5;

export interface Finding extends Faults {
  /** What was looked into. */
  readonly where: string;
  readonly messages: number;
  readonly examples: readonly string[];
}

/** Pages a whole conversation by `message.history` over a connection of its own, and compares. */
export async function checkHistory(url: string, token: string, stages: readonly Stage[]): Promise<Finding> {
  const client = connect({ url, token });
  const check = createCheck("history");
  try {
    for (const stage of stages) {
      const found: Line[] = [];
      for (let after = 0, more = true; more; ) {
        const page = await client.history(stage.conversation, { after, limit: PAGE });
        for (const { seq, id, from, body } of page.messages) found.push({ seq, id, from, text: body.text ?? "" });
        more = page.more && page.messages.length > 0;
        after = page.messages.at(-1)?.seq ?? after;
        if (page.head !== stage.head) check.fault("different", stage, `head is ${page.head}, sent was ${stage.head}`);
      }
      check.compare(stage, found);
    }
  } finally {
    client.close();
  }
  return check.finding();
}

/** Compares the archive's rows: every seq of the timeline, and every message. Undefined when the file is not there. */
export async function checkArchive(
  dataDir: string,
  stages: readonly Stage[],
  catchUpMs = CATCH_UP_MS,
): Promise<Finding | undefined> {
  const path = join(dataDir, "archive.db");
  if (!existsSync(path)) return undefined;
  return eventuallyClean(catchUpMs, () => {
    using database = new Database(path, { readonly: true });
    const rows = database.query<ArchiveRow, [string, string]>(
      "SELECT seq, kind, record FROM entries WHERE conversation = ? AND epoch = ? ORDER BY seq",
    );
    const check = createCheck("archive.db");
    for (const stage of stages) {
      const entries = rows.all(stage.conversation, stage.epoch);
      const misplaced = entries.findIndex(({ seq }, i) => seq !== i + 1);
      if (misplaced >= 0) check.fault("lost", stage, `row ${misplaced + 1} has seq ${entries[misplaced]!.seq}`);
      if (entries.length !== stage.head) check.fault("lost", stage, `${entries.length} rows of ${stage.head}`);
      const found = entries.filter(({ kind }) => kind === "message").map(({ record }) => JSON.parse(record));
      check.compare(
        stage,
        found.map(({ seq, id, from, body }) => ({ seq, id, from, text: body.text })),
      );
    }
    return check.finding();
  });
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

export function isClean(faults: Faults): boolean {
  return faults.lost + faults.doubled + faults.reordered + faults.different + faults.outside === 0;
}

function digestOf(lines: readonly Line[]): string {
  let digest = "";
  for (const { id, text } of lines) {
    digest = new Bun.CryptoHasher("sha256").update(`${digest}${id}\n${text}`).digest("hex");
  }
  return digest;
}

/** Looks again until all is there or time is up: then what is wrong is wrong. */
async function eventuallyClean(withinMs: number, look: () => Finding): Promise<Finding> {
  const deadline = performance.now() + withinMs;
  for (;;) {
    const finding = look();
    if (isClean(finding) || performance.now() > deadline) return finding;
    await Bun.sleep(POLL_MS);
  }
}

function createCheck(where: string) {
  const faults = noFaults();
  const examples: string[] = [];
  let messages = 0;
  const fault = (kind: keyof Faults, stage: Stage, example: string, count = 1) => {
    faults[kind] += count;
    if (examples.length < EXAMPLES_MAX) examples.push(`${where}: ${stage.file}: ${kind}: ${example}`);
  };
  return {
    fault,
    count(more: number): void {
      messages += more;
    },
    /** Every line once, at its seq, as it was sent, in order. */
    compare(stage: Stage, found: readonly Line[]): void {
      messages += found.length;
      const sent = new Map(stage.lines.map((line) => [line.id, line]));
      const seen = new Set<string>();
      let last = 0;
      for (const line of found) {
        const expected = sent.get(line.id);
        if (seen.has(line.id)) fault("doubled", stage, `${line.id} at ${line.seq}`);
        else if (!expected) fault("different", stage, `${line.id} at ${line.seq} was never acknowledged`);
        else if (line.seq !== expected.seq || line.seq <= last) fault("reordered", stage, `${line.id} at ${line.seq}`);
        else if (line.text !== expected.text || line.from !== expected.from) {
          fault(
            "different",
            stage,
            `${line.id}: ${JSON.stringify(line.text)}, sent was ${JSON.stringify(expected.text)}`,
          );
        }
        seen.add(line.id);
        last = Math.max(last, line.seq);
      }
      const missing = stage.lines.filter(({ id }) => !seen.has(id));
      if (missing.length > 0) fault("lost", stage, `${missing[0]!.id} at ${missing[0]!.seq}`, missing.length);
    },
    finding: (): Finding => ({ where, messages, ...faults, examples }),
  };
}
