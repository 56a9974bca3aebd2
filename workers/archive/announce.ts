/**
 * Tells logic how far the archive holds each conversation, so that it may trim the hot window behind that. A busy conversation
 * is announced every so many entries; an hourly sweep announces what went quiet in between.
 *
 * At least once: a timeline counts as announced after the publication. Nothing waits for it; what fails is announced by the
 * conversation's next write or by the sweep.
 */

import type { ArchiveStore, TimelineState } from "../../lib/archive/index.ts";
import type { Clock } from "../../lib/clock.ts";
import { imCommands } from "../../lib/im/index.ts";
import type { Queue } from "../../lib/mq/index.ts";
import type { Log } from "../../lib/observability/index.ts";
import { createService, type Service } from "../../lib/service.ts";

/** A quarter of the hot window: it stays within 1250 entries, at one command per 256. */
const ANNOUNCE_EVERY_ENTRIES = 256;
/** Commands per publication. */
const BATCH_MAX = 256;
const SWEEP_EVERY_MS = 3_600_000;
/** The hot window's age limit (design.md §10). */
const IDLE_MS = 7 * 24 * 3_600_000;
/** Timelines looked at before other work gets its turn: about 2 ms. */
const SWEEP_PAGE = 5_000;
/** Announcements of one sweep; the next goes on where it stopped. */
const SWEEP_ANNOUNCED_MAX = 20_000;

interface AnnouncerParts {
  readonly store: ArchiveStore;
  readonly queue: Queue;
  readonly clock: Clock;
  readonly log: Log;
}

export interface Announcer {
  /** Sweeps while it runs. */
  readonly service: Service;
  /** Announces those that have moved on far enough. Returns at once. */
  consider(timelines: readonly TimelineState[]): void;
}

export function createAnnouncer({ store, queue, clock, log }: AnnouncerParts): Announcer {
  /** The latest state of each timeline that is due; one entry per timeline, and emptied as fast as Redis takes it. */
  let due = new Map<string, TimelineState>();
  let running: Promise<void> | undefined;
  let sweeping: Promise<void> | undefined;
  let sweepFrom = 0;
  const stopping = new AbortController();

  function consider(timelines: readonly TimelineState[]): void {
    for (const timeline of timelines) {
      const { conversation, epoch, lastSeq, announcedSeq } = timeline;
      if (lastSeq - announcedSeq >= ANNOUNCE_EVERY_ENTRIES) due.set(`${conversation}\n${epoch}`, timeline);
    }
    if (due.size > 0) running ??= announceDue();
  }

  async function announceDue(): Promise<void> {
    try {
      while (due.size > 0) {
        const timelines = [...due.values()];
        due = new Map();
        for (let i = 0; i < timelines.length; i += BATCH_MAX) await announce(timelines.slice(i, i + BATCH_MAX));
      }
    } catch (error) {
      log.warn({ error }, "archived timelines could not be announced, a later write or sweep does it");
    } finally {
      running = undefined;
    }
  }

  async function announce(timelines: readonly TimelineState[]): Promise<void> {
    await queue.publishMany(
      imCommands,
      timelines.map(({ conversation, epoch, lastSeq }) => ({
        type: "im.command.archived",
        key: conversation,
        data: { type: "archived" as const, conversation, epoch, through: lastSeq },
      })),
    );
    await store.noteAnnounced(timelines);
  }

  /** One round over the quiet timelines, or as much of it as one sweep may do. */
  async function sweep(): Promise<void> {
    const idleSinceMs = clock.now() - IDLE_MS;
    let announced = 0;
    do {
      const { timelines, next } = await store.unannounced({ idleSinceMs, from: sweepFrom, count: SWEEP_PAGE });
      for (let i = 0; i < timelines.length; i += BATCH_MAX) await announce(timelines.slice(i, i + BATCH_MAX));
      announced += timelines.length;
      sweepFrom = next;
    } while (sweepFrom > 0 && announced < SWEEP_ANNOUNCED_MAX && !stopping.signal.aborted);
    if (announced > 0) log.info({ announced }, "quiet timelines were announced as archived");
  }

  async function sweepHourly(): Promise<void> {
    while (!stopping.signal.aborted) {
      await clock.sleep(SWEEP_EVERY_MS, stopping.signal);
      if (stopping.signal.aborted) return;
      try {
        await sweep();
      } catch (error) {
        log.warn({ error }, "the sweep of quiet timelines failed, the next one goes on");
      }
    }
  }

  return {
    consider,
    service: createService(
      "archive announcer",
      async () => {
        sweeping = sweepHourly();
      },
      async () => {
        stopping.abort();
        await sweeping;
        await running;
      },
    ),
  };
}
