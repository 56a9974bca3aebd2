/**
 * The `archive` group: every timeline entry of `im.events` goes to the store. The batches of all partitions meet in one
 * writer, and a batch is finished when its rows are on disk, so the group's checkpoint never runs ahead of the archive.
 *
 * An archive with a hole is no archive: while the store fails, the batch is tried again for as long as it takes (unread
 * entries stay in the stream), and only a message that can never be stored is buried, which the hole in its timeline tells.
 */

import type { ArchiveStore, NewEntry, TimelineState } from "../../lib/archive/index.ts";
import { backoffMs, type Clock } from "../../lib/clock.ts";
import { createGroupCommit } from "../../lib/group-commit.ts";
import { type Body, type Message as ChatMessage, type EntryEvent, imEvents, partsOf } from "../../lib/im/index.ts";
import { type DeliveryContext, InvalidMessage, type Message, type Queue } from "../../lib/mq/index.ts";
import type { Log, Metrics } from "../../lib/observability/index.ts";
import type { Service } from "../../lib/service.ts";

/** History is read from here only after it left the hot window, so such a lag costs nobody anything; an fsync more does. */
const LINGER_MS = 100;
/** Some 6 ms of work: a transaction holds the thread, which in a shared unit is also the gateway's. */
const COMMIT_ENTRIES_MAX = 1_000;
/** How long a dead member's partitions wait for another. */
const LEASE_MS = 5_000;
const RETRY = { firstMs: 50, maxMs: 5_000, jitter: 0.3 };

interface IngestParts {
  readonly store: ArchiveStore;
  readonly queue: Queue;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  /** Told of the timelines that a commit wrote to; must not wait. */
  readonly onWritten: (timelines: readonly TimelineState[]) => void;
}

export function createIngest({ store, queue, clock, log, metrics, onWritten }: IngestParts): Service {
  const writer = createGroupCommit<NewEntry>({
    countMax: COMMIT_ENTRIES_MAX,
    async commit(entries) {
      const { added, clashes, timelines } = await store.write(entries);
      metrics.archived.inc(added);
      if (clashes > 0) {
        metrics.archiveClashes.inc(clashes);
        log.error({ clashes }, "entries were refused: another entry holds their place in the archive");
      }
      for (const { conversation, epoch, lastSeq, newestSeq } of timelines) {
        if (lastSeq === newestSeq) continue;
        metrics.archiveGaps.inc();
        log.warn({ conversation, epoch, lastSeq, newestSeq }, "the archive lacks entries of a timeline");
      }
      onWritten(timelines);
    },
  });

  async function handleBatch(events: readonly Message<unknown>[], { signal }: DeliveryContext): Promise<void> {
    const entries: NewEntry[] = [];
    for (const event of events) {
      // Events without a place in a timeline (a conversation's creation, read cursors) are not history.
      if (event.sequence !== undefined) entries.push(toEntry(event, event.sequence));
    }
    for (let attempt = 1; ; attempt++) {
      try {
        await writer.add(entries);
        return;
      } catch (error) {
        if (signal.aborted) throw error;
        log.warn({ error, attempt, count: entries.length }, "the archive could not be written, it is tried again");
        await clock.sleep(backoffMs(attempt, RETRY), signal);
      }
    }
  }

  return queue.consume(imEvents, {
    group: "archive",
    mode: "ordered",
    leaseMs: LEASE_MS,
    lingerMs: LINGER_MS,
    maxAttempts: Number.POSITIVE_INFINITY,
    validate: false,
    handleBatch,
  });
}

/** Throws InvalidMessage, which buries this one event, when it does not say what the archive must know. */
function toEntry(event: Message<unknown>, seq: number): NewEntry {
  const { epoch, ordinal } = event.properties;
  const messages = Number(ordinal);
  if (!epoch || !ordinal || !Number.isSafeInteger(messages) || !Number.isSafeInteger(seq)) {
    const message = "a timeline event needs a sequence and the properties epoch and ordinal";
    throw new InvalidMessage(event.entry, [{ path: "properties", message }]);
  }
  const { key: conversation, id, time: committedAt } = event;
  const place = { conversation, epoch, seq, id, ordinal: messages, committedAt };
  if (event.type === "im.message.created") {
    return { ...place, kind: "message", record: event.raw, text: textOf((event.data as Partial<ChatMessage>).body) };
  }
  const data = event.data as EntryEvent;
  const { kind } = data.entry ?? {};
  if (kind === undefined || kind === "message") {
    const message = "must be an entry that is no message";
    throw new InvalidMessage(event.entry, [{ path: "data.entry", message }]);
  }
  const parts = partsOf(data);
  const fold = parts && "target" in data.entry ? { target: data.entry.target, parts } : undefined;
  return {
    ...place,
    kind,
    record: JSON.stringify(data.entry),
    ...(fold === undefined ? {} : { fold }),
    ...(data.entry.kind === "edit" ? { text: textOf(data.entry.body) } : {}),
    ...(kind === "recall" ? { text: "" } : {}),
  };
}

/** What people read of a body, whatever its message's type: of an edit's body the type is not known here. */
function textOf(body: Body | undefined): string {
  return typeof body?.text === "string" ? body.text : "";
}
