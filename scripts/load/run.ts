/**
 * One run of load over open sockets: closed loop (a window of messages per lane) or open loop (a rate, with latency counted
 * from the due time, so that a stalled server is charged for what it kept waiting). A message is a number; all that is kept of
 * it is its lane, its due time and how many events are still to come for it.
 */

import type { Load, LoadResult } from "./contract.ts";
import { createSendTemplate, type Incoming } from "./frames.ts";
import { createLatencies } from "./latencies.ts";
import { type Pacer, startPacer } from "./pacer.ts";
import type { Sockets } from "./sockets.ts";

/** Messages of one run: 40 s at 50 000/s. Above it a run stops sending. 24 MB of state. */
const MESSAGES_MAX = 2_000_000;
/** A run whose last messages do not arrive within this ends with them as unfinished. */
const DRAIN_MS = 10_000;
/** Characters of an error that tell refusals apart. */
const REFUSAL_LENGTH = 160;

type Phase = "warm" | "measuring" | "draining" | "over";

/** Runs `load`; `onPhase` is told when the measured time begins and ends. Rejects when a connection is lost. */
export function runLoad(
  sockets: Sockets,
  load: Load,
  onPhase: (phase: "measuring" | "measured") => void,
): Promise<LoadResult> {
  const { lanes, outstanding, perSecond } = load;
  const outbox = createOutbox(sockets, load);
  const dueMs = new Float64Array(MESSAGES_MAX);
  const laneOf = new Uint16Array(MESSAGES_MAX);
  /** Events to come: one reply and one notification per receiver. */
  const toCome = new Uint16Array(MESSAGES_MAX);
  const ackLatencies = createLatencies();
  const deliveryLatencies = createLatencies();
  const refused: Record<string, number> = {};
  const counts = { sent: 0, acked: 0, delivered: 0 };
  const timers: Timer[] = [];
  let phase: Phase = "warm";
  let created = 0;
  let finished = 0;
  let beganMs = Number.POSITIVE_INFINITY;
  let endedMs = Number.POSITIVE_INFINITY;
  let lastEventMs = 0;
  /** Read once per chunk: a clock call per frame would be the dearest part of reading it. */
  let nowMs = performance.now();
  let isNowFresh = false;
  let pacer: Pacer | undefined;

  const send = (lane: number, due: number) => {
    if (created === MESSAGES_MAX) return;
    const n = created++;
    dueMs[n] = due;
    laneOf[n] = lane;
    toCome[n] = 1 + lanes[lane]!.receivers;
    if (phase === "measuring") counts.sent++;
    outbox.add(lane, n);
  };

  const isMeasured = (n: number) => dueMs[n]! >= beganMs && dueMs[n]! < endedMs;

  const take = (incoming: Incoming) => {
    if (incoming.kind === "other" || incoming.n >= created) return;
    if (!isNowFresh) {
      nowMs = performance.now();
      isNowFresh = true;
    }
    lastEventMs = nowMs;
    const { n } = incoming;
    if (incoming.kind === "message") {
      if (phase === "measuring") counts.delivered++;
      if (isMeasured(n)) deliveryLatencies.record(nowMs - dueMs[n]!);
    } else if (incoming.kind === "ack") {
      if (phase === "measuring") counts.acked++;
      if (isMeasured(n)) ackLatencies.record(nowMs - dueMs[n]!);
    } else {
      const error = incoming.error.slice(0, REFUSAL_LENGTH);
      refused[error] = (refused[error] ?? 0) + 1;
      // No notification follows a refusal.
      toCome[n] = 1;
    }
    toCome[n] = toCome[n]! - 1;
    if (toCome[n] === 0) {
      finished++;
      if (outstanding !== undefined && phase !== "draining") send(laneOf[n]!, nowMs);
    }
  };

  return new Promise((resolve, reject) => {
    const finish = () => {
      phase = "over";
      for (const timer of timers) clearTimeout(timer);
      sockets.handlers = IGNORE;
      resolve({
        ...counts,
        sentInAll: created,
        seconds: (endedMs - beganMs) / 1_000,
        ackMs: ackLatencies.percentiles(),
        deliveryMs: deliveryLatencies.percentiles(),
        refused,
        unfinished: created - finished,
        drainMs: Math.max(0, lastEventMs - endedMs),
      });
    };
    const measure = () => {
      phase = "measuring";
      beganMs = performance.now();
      onPhase("measuring");
    };
    const drain = () => {
      phase = "draining";
      endedMs = performance.now();
      pacer?.stop();
      onPhase("measured");
      if (finished === created) finish();
      else timers.push(setTimeout(finish, DRAIN_MS));
    };
    timers.push(setTimeout(measure, load.warmMs), setTimeout(drain, load.warmMs + load.measureMs));

    sockets.handlers = {
      frame: take,
      idle() {
        isNowFresh = false;
        outbox.flush();
        if (phase === "draining" && finished === created) finish();
      },
      lost(reason) {
        pacer?.stop();
        for (const timer of timers) clearTimeout(timer);
        sockets.handlers = IGNORE;
        reject(new Error(reason));
      },
    };

    if (outstanding !== undefined) {
      for (let i = 0; i < outstanding; i++) for (const lane of lanes.keys()) send(lane, nowMs);
      outbox.flush();
    }
    if (perSecond !== undefined) {
      let owed = 0;
      pacer = startPacer((due) => {
        owed += perSecond / 1_000;
        for (; owed >= 1; owed--) send(created % lanes.length, due);
        outbox.flush();
      });
    }
  });
}

const IGNORE = { frame: () => undefined, idle: () => undefined, lost: () => undefined };

/** Frames of one moment to one socket leave in one write, as a client does that was woken by several replies at once. */
function createOutbox(sockets: Sockets, { run, lanes, textBytes }: Load) {
  const templates = lanes.map(({ conversation }) => createSendTemplate(run, conversation, textBytes));
  const waiting = new Map<number, Buffer[]>();
  return {
    add(lane: number, n: number) {
      // The template is overwritten by the next message of its lane: what waits is a copy.
      const frame = Buffer.from(templates[lane]!.frame(n));
      const { sender } = lanes[lane]!;
      const frames = waiting.get(sender);
      if (frames) frames.push(frame);
      else waiting.set(sender, [frame]);
    },
    flush() {
      if (waiting.size === 0) return;
      for (const [sender, frames] of waiting) {
        sockets.wires[sender]!.write(frames.length === 1 ? frames[0]! : Buffer.concat(frames));
      }
      waiting.clear();
    },
  };
}
