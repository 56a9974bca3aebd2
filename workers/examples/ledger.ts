/**
 * What makes an effect happen exactly once although messages come at least once: the effect and the note of how far it got
 * are written in one transaction of the service's own database. A message that the note covers is skipped.
 *
 *   ledger   conversation  epoch  last_seq  messages  missed  digest
 *
 * `digest` rolls over all messages in the order of their effect, so that anyone can compare what the service saw, content and
 * order, with what was sent: digest n = sha256(digest n-1, message id, line feed, text) in hex, beginning with "" (of messages that
 * are no texts: the id alone).
 * `missed` is how many messages of the conversation never came (0, unless the service began after they were trimmed).
 */

import { Database } from "bun:sqlite";
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { createGroupCommit } from "../../lib/group-commit.ts";
import { type Message as ChatMessage, imEvents, textOf } from "../../lib/im/index.ts";
import type { Message, Queue } from "../../lib/mq/index.ts";
import { createService, type Service } from "../../lib/service.ts";

/** Nobody waits for a downstream service: what gathers in so long shares a transaction, and with it an fsync. */
const LINGER_MS = 100;
/** Some 4 ms of work; a transaction holds the thread. */
const COMMIT_EVENTS_MAX = 1_000;
/** How long a dead member's partitions wait for another. */
const LEASE_MS = 5_000;
/** For readers of other processes. */
const BUSY_TIMEOUT_MS = 1_000;

export interface LedgerOptions {
  readonly path: string;
  /** SQL that creates the service's own tables; run at every start. */
  readonly schema: string;
  /** Given the database, returns the effect: it writes what the messages, each seen for the first time, mean. */
  readonly effect: (database: Database) => (messages: readonly ChatMessage[]) => void;
}

export interface Ledger {
  /** Consumes the chat's events as `group`, every message once, in the order of its conversation. */
  consume(queue: Queue, group: string): Service;
  /** Resolves when the effect of the events is on disk. */
  record(events: readonly Message<unknown>[]): Promise<void>;
  close(): void;
}

interface Row {
  readonly conversation: string;
  readonly epoch: string;
  lastSeq: number;
  messages: number;
  missed: number;
  digest: string;
}

export function openLedger({ path, schema, effect }: LedgerOptions): Ledger {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const database = new Database(path, { create: true });
  database.run(`PRAGMA busy_timeout = ${BUSY_TIMEOUT_MS}`);
  database.run("PRAGMA journal_mode = WAL");
  // The group's checkpoint follows the commit, so the commit must survive what the checkpoint survives.
  database.run("PRAGMA synchronous = FULL");
  database.run(`CREATE TABLE IF NOT EXISTS ledger (conversation TEXT, epoch TEXT, last_seq INTEGER, messages INTEGER,
    missed INTEGER, digest TEXT, PRIMARY KEY (conversation, epoch)) WITHOUT ROWID`);
  database.run(schema);
  const find = database.prepare<Row, [string, string]>(
    "SELECT conversation, epoch, last_seq AS lastSeq, messages, missed, digest FROM ledger WHERE conversation = ? AND epoch = ?",
  );
  const store = database.prepare("INSERT OR REPLACE INTO ledger VALUES (?, ?, ?, ?, ?, ?)");
  const apply = effect(database);

  const commit = database.transaction((events: readonly Message<unknown>[]) => {
    const rows = new Map<string, Row>();
    const fresh: ChatMessage[] = [];
    for (const { type, key: conversation, sequence: seq = 0, properties, raw } of events) {
      if (type !== "im.message.created") continue;
      const epoch = properties.epoch ?? "";
      const place = `${conversation}\n${epoch}`;
      let row = rows.get(place);
      if (!row) {
        // Read inside the transaction: a holder of the partition that was paused may have been overtaken by its successor.
        const start = { conversation, epoch, lastSeq: 0, messages: 0, missed: 0, digest: "" };
        row = find.get(conversation, epoch) ?? start;
        rows.set(place, row);
      }
      if (seq <= row.lastSeq) continue;
      const message = JSON.parse(raw) as ChatMessage;
      row.lastSeq = seq;
      row.messages += 1;
      row.missed = Number(properties.ordinal) - row.messages;
      row.digest = Bun.SHA256.hash(`${row.digest}${message.id}\n${textOf(message)}`, "hex");
      fresh.push(message);
    }
    apply(fresh);
    for (const row of rows.values()) {
      store.run(row.conversation, row.epoch, row.lastSeq, row.messages, row.missed, row.digest);
    }
  });
  const writer = createGroupCommit<Message<unknown>>({
    countMax: COMMIT_EVENTS_MAX,
    commit: async (events) => commit.immediate(events),
  });

  return {
    record: writer.add,
    close: () => database.close(),
    consume(queue, group) {
      const consumer = queue.consume(imEvents, {
        group,
        mode: "ordered",
        leaseMs: LEASE_MS,
        lingerMs: LINGER_MS,
        // Logic has checked what it published; parsing each event against the schema again would double the cost.
        validate: false,
        // A message given up and redriven later would be behind the ledger: this group waits instead.
        maxAttempts: Number.POSITIVE_INFINITY,
        handleBatch: writer.add,
      });
      const stop = async (signal: AbortSignal) => {
        await consumer.stop(signal);
        database.close();
      };
      return createService(`${group} with its ledger`, () => consumer.start(), stop);
    },
  };
}
