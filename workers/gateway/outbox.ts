/**
 * What a socket is owed. Frames of one turn of the event loop are written together, for a write to the kernel costs 4.3 µs
 * and a frame 0.4 µs (measured, 100 sockets: 4.7 µs per frame alone, 0.7 µs in groups of eight; topics of Bun's publish 0.6 µs).
 *
 *   reply or notification ─► pending ─► written together ─► the kernel takes it, or it is buffered:
 *
 *     from 256 KB   lagging: live frames are dropped, for they are hints; when the buffer has drained `session.resync`
 *     from 1 MB     closed with 4008: replies and resyncs cannot be dropped, and a reader this slow is gone
 *
 * Under load the next round waits up to three times as long as the last one took: it then has more frames per socket.
 */

import type { Metrics } from "../../lib/observability/index.ts";
import { notificationFrame } from "./frames.ts";

/** design.md §10. */
export const LAGGING_BYTES = 256 * 1_024;
export const OUTBOX_BYTES_MAX = 1_024 * 1_024;
/** More pending than this is written at once: a burst within one turn is no sign of a slow reader. */
const PENDING_CHARACTERS_MAX = 64 * 1_024;
/** At most so much is left in the buffer when the live frames begin again. */
const DRAINED_BYTES = 32 * 1_024;
/** Longest wait that coalescing adds to a frame. */
const PAUSE_MAX_MS = 4;
/** A pause of three times the work keeps the writing at a quarter of the time, and lets frames gather. */
const PAUSE_RATIO = 3;

export const CLOSE_TOO_SLOW = 4008;

/** As much of Bun's ServerWebSocket as is used here. */
export interface Socket {
  send(text: string): number;
  cork(write: () => void): void;
  getBufferedAmount(): number;
}

export class Outbox {
  socket: Socket | undefined;
  isLagging = false;
  /** In the writer's list. */
  isDirty = false;
  /** Live frames wait: the session's reply goes first. */
  private isHeld = false;
  private held: string[] | undefined;
  private pending: string[] = [];
  /** UTF-16 units pending or held. */
  private owed = 0;

  constructor(
    private readonly writer: Writer,
    private readonly tooSlow: () => void,
  ) {}

  /** A reply, or a notification that must not be lost. */
  write(frame: string): void {
    this.pending.push(frame);
    this.owed += frame.length;
    if (this.owed > PENDING_CHARACTERS_MAX) this.flush();
    else this.touch();
  }

  /** A live frame: dropped while the socket lags. */
  deliver(frame: string): void {
    if (this.isLagging) return;
    if (!this.isHeld) {
      this.write(frame);
      return;
    }
    this.held ??= [];
    this.held.push(frame);
    this.owed += frame.length;
    if (this.owed <= LAGGING_BYTES) return;
    this.held = [];
    this.lag();
  }

  hold(): void {
    this.isHeld = true;
  }

  /** Lets held frames follow what was written meanwhile. */
  release(): void {
    this.isHeld = false;
    if (this.held) this.pending.push(...this.held);
    this.held = undefined;
    this.touch();
  }

  /** Writes what is pending now. */
  flush(): void {
    const { socket, pending } = this;
    if (!socket || pending.length === 0) return;
    if (pending.length === 1) socket.send(pending[0]!);
    else socket.cork(() => this.writeAll());
    this.writer.written += pending.length;
    pending.length = 0;
    this.owed = 0;
    const buffered = socket.getBufferedAmount();
    if (buffered >= OUTBOX_BYTES_MAX) this.overflow();
    else if (buffered >= LAGGING_BYTES && !this.isLagging) this.lag();
  }

  /** The kernel took some of the buffer, or a round has ended. */
  drained(): void {
    if (!this.isLagging || this.isHeld || !this.socket) return;
    if (this.socket.getBufferedAmount() > DRAINED_BYTES) return;
    this.isLagging = false;
    this.writer.metrics.resyncs.inc({ reason: "lagging" });
    this.write(notificationFrame("session.resync", { reason: "lagging" }));
  }

  /** The socket is gone. */
  drop(): void {
    this.socket = undefined;
    this.pending = [];
    this.held = undefined;
  }

  private writeAll(): void {
    const { socket, pending } = this;
    for (let i = 0; i < pending.length; i++) socket!.send(pending[i]!);
  }

  private touch(): void {
    if (this.isDirty) return;
    this.isDirty = true;
    this.writer.add(this);
  }

  private lag(): void {
    this.isLagging = true;
    this.writer.metrics.outboxLagging.inc();
    // When nothing is left in the buffer no drain will come: the round's end looks.
    this.touch();
  }

  private overflow(): void {
    this.writer.metrics.outboxClosed.inc();
    this.tooSlow();
  }
}

/** Writes the outboxes of a gateway, once per turn of the event loop. */
export class Writer {
  written = 0;
  private dirty: Outbox[] = [];
  private isScheduled = false;
  private readyAtMs = 0;

  constructor(readonly metrics: Metrics) {}

  add(outbox: Outbox): void {
    this.dirty.push(outbox);
    if (this.isScheduled) return;
    this.isScheduled = true;
    const waitMs = this.readyAtMs - performance.now();
    // Below a timer's resolution it is not worth a timer.
    if (waitMs < 1) setImmediate(this.round);
    else setTimeout(this.round, waitMs);
  }

  private readonly round = (): void => {
    const startedMs = performance.now();
    const outboxes = this.dirty;
    this.dirty = [];
    this.isScheduled = false;
    for (const outbox of outboxes) {
      outbox.isDirty = false;
      outbox.flush();
      outbox.drained();
    }
    const endedMs = performance.now();
    this.readyAtMs = endedMs + Math.min(PAUSE_MAX_MS, PAUSE_RATIO * (endedMs - startedMs));
    if (this.written > 0) this.metrics.frames.inc({ direction: "out" }, this.written);
    this.written = 0;
  };
}
