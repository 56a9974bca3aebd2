/**
 * Calls of one method on their way to one target. For a batchable method one request is under way and whatever arrives
 * meanwhile goes with the next (Nagle): no timer, no added wait, and the batch grows with the load. Calls keep their order.
 * For other methods each call is a request, and some run at once.
 */

import { AppError, fromErrorBody } from "../errors.ts";
import { mayHaveRun, type Target, type TargetReply } from "./target.ts";
import { BATCH_CALLS_MAX, BATCH_LENGTH_MAX, type BatchItem } from "./wire.ts";

/** Requests of a method without batches under way at a target. Bun's fetch runs 256 at once for the whole process: a stuck instance must leave some to the others. */
const REQUESTS_MAX = 32;

/** One call from its making to its end. */
export class Call {
  state: "held" | "queued" | "sent" | "settled" = "held";
  /** Times that it left here and no answer came. */
  lostCount = 0;
  request: OpenRequest | undefined;
  readonly startedAt = performance.now();
  readonly deadlineAt: number;

  constructor(
    readonly owner: LaneOwner,
    /** The input as JSON. */
    readonly text: string,
    readonly key: string | undefined,
    readonly timeoutMs: number,
    readonly traceparent: string | undefined,
    readonly resolve: (value: unknown) => void,
    readonly reject: (error: AppError) => void,
  ) {
    this.deadlineAt = this.startedAt + timeoutMs;
  }
}

/** A request under way. When every call in it has passed its deadline, it is aborted. */
export interface OpenRequest {
  readonly calls: readonly Call[];
  readonly abort: AbortController;
  open: number;
}

/** The method's side: what happens to calls that end or come back. */
export interface LaneOwner {
  readonly service: string;
  readonly method: string;
  readonly isBatchable: boolean;
  finish(call: Call, value: unknown): void;
  fail(call: Call, error: AppError): void;
  /** The call's deadline has passed. */
  expire(call: Call): void;
  /** A request was answered, `seconds` after its oldest call was made; `finished` of its calls were ok. Once per batch, for a metric costs more than a call's bookkeeping. */
  answered(seconds: number, finished: number): void;
  /** The target did not take or did not answer these calls; `mayHaveRun` tells which. Those queued behind them come along. */
  comeBack(calls: readonly Call[], mayHaveRun: boolean, queued: readonly Call[]): void;
  left(call: Call, lane: Lane): void;
}

export class Lane {
  private queue: Call[] = [];
  private openRequests = 0;
  private isFlushDue = false;

  constructor(
    readonly target: Target,
    private readonly owner: LaneOwner,
  ) {}

  push(call: Call): void {
    call.state = "queued";
    this.queue.push(call);
    this.target.pending += 1;
    this.target.pendingLength += call.text.length;
    this.flushSoon();
  }

  /** Takes every call that has not been sent. */
  drain(): Call[] {
    const calls = this.queue.filter((call) => call.state === "queued");
    for (const call of this.queue) this.forget(call);
    this.queue = [];
    return calls;
  }

  private flushSoon(): void {
    if (this.isFlushDue || this.openRequests >= (this.owner.isBatchable ? 1 : REQUESTS_MAX)) return;
    this.isFlushDue = true;
    // Calls of this very tick still join.
    queueMicrotask(() => {
      this.isFlushDue = false;
      const requestsMax = this.owner.isBatchable ? 1 : REQUESTS_MAX;
      while (this.openRequests < requestsMax) {
        const calls = this.take();
        if (calls.length === 0) return;
        void this.send(calls);
      }
    });
  }

  private take(): Call[] {
    const callsMax = this.owner.isBatchable ? BATCH_CALLS_MAX : 1;
    const calls: Call[] = [];
    let length = 0;
    let taken = 0;
    for (const call of this.queue) {
      if (call.state === "queued") {
        if (calls.length === callsMax || (calls.length > 0 && length + call.text.length > BATCH_LENGTH_MAX)) break;
        calls.push(call);
        length += call.text.length;
      } else this.forget(call);
      taken += 1;
    }
    if (taken === this.queue.length) this.queue = [];
    else this.queue.splice(0, taken);
    return calls;
  }

  private async send(calls: readonly Call[]): Promise<void> {
    const request: OpenRequest = { calls, abort: new AbortController(), open: calls.length };
    let deadlineAt = 0;
    let traceparent: string | undefined;
    for (const call of calls) {
      call.state = "sent";
      call.request = request;
      deadlineAt = Math.max(deadlineAt, call.deadlineAt);
      traceparent ??= call.traceparent;
    }
    const { owner, target } = this;
    this.openRequests += 1;
    target.requests.add(request.abort);
    let reply: TargetReply | undefined;
    let lost: unknown;
    try {
      reply = await target.send({
        service: owner.service,
        method: owner.method,
        body: owner.isBatchable ? `[${calls.map((call) => call.text).join(",")}]` : calls[0]!.text,
        remainingMs: deadlineAt - performance.now(),
        traceparent,
        signal: request.abort.signal,
      });
    } catch (error) {
      lost = error;
    }
    this.openRequests -= 1;
    target.requests.delete(request.abort);
    for (const call of calls) this.forget(call);
    if (reply) {
      const finished = this.settle(calls, reply);
      owner.answered((performance.now() - calls[0]!.startedAt) / 1_000, finished);
    } else this.lose(calls, request, lost);
    this.flushSoon();
  }

  /** Ends every call that is still open by its answer; how many were ok. */
  private settle(calls: readonly Call[], reply: TargetReply): number {
    const { owner } = this;
    if (reply.kind === "refused" && reply.reason === "draining") {
      owner.comeBack(stillOpen(calls), false, this.drain());
      return 0;
    }
    if (reply.kind === "refused" && reply.reason === "denied") {
      // The end user is not to blame for it, so it is not passed on as a 401.
      const error = new AppError("INTERNAL", `${owner.service} refused the call: ${reply.error.detail}`);
      for (const call of stillOpen(calls)) owner.fail(call, error);
      return 0;
    }
    if (reply.kind !== "answer") {
      for (const call of stillOpen(calls)) owner.fail(call, fromErrorBody(reply.error));
      return 0;
    }
    const items = owner.isBatchable ? reply.value : [{ ok: reply.value }];
    return this.settleItems(calls, (Array.isArray(items) ? items : []) as readonly BatchItem[]);
  }

  private settleItems(calls: readonly Call[], items: readonly BatchItem[]): number {
    const { owner } = this;
    let finished = 0;
    for (let i = 0; i < calls.length; i++) {
      const call = calls[i]!;
      const item = items[i];
      if (call.state !== "sent") continue;
      if (item === undefined) owner.fail(call, new AppError("INTERNAL"));
      else if ("ok" in item) {
        owner.finish(call, item.ok);
        finished += 1;
      } else owner.fail(call, fromErrorBody(item.error));
    }
    return finished;
  }

  private lose(calls: readonly Call[], request: OpenRequest, error: unknown): void {
    if (request.open === 0) {
      this.target.timedOut();
      return;
    }
    this.target.failed();
    this.owner.comeBack(stillOpen(calls), mayHaveRun(error), this.drain());
  }

  private forget(call: Call): void {
    this.target.pending -= 1;
    this.target.pendingLength -= call.text.length;
    this.owner.left(call, this);
  }
}

function stillOpen(calls: readonly Call[]): Call[] {
  return calls.filter((call) => call.state === "sent");
}
