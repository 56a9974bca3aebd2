/**
 * The calling side of a service: which instance a call goes to, what happens when that fails, and when a call ends.
 *
 *           ┌────────────── comes back: not executed, or idempotent ──────────────┐
 *           ▼                                                                     │
 *   call ─► held (no instance takes it now) ─► queued in a lane ─► sent ──► answered, or lost
 *
 * Calls that come back go on to another instance at once, or wait here for the next look at the registry. Held calls keep
 * their order and later calls wait behind them. A deadline ends a call in every state.
 */

import { AppError } from "../errors.ts";
import type { Metrics } from "../observability/index.ts";
import { CALL_TIMEOUT_MS, type CallOptions, type Client, type Contract, type MethodContract } from "./contract.ts";
import { Call, Lane, type LaneOwner } from "./lane.ts";
import type { Directory, Instance } from "./registry.ts";
import { hashOf, Target, weightOf } from "./target.ts";
import type { Tokens } from "./token.ts";
import { BATCH_LENGTH_MAX } from "./wire.ts";

/** Deadlines are kept to this many milliseconds: one timer for all calls of a service, none per call. */
const SWEEP_MS = 20;
/** Calls queued and under way at one instance: several seconds of its work. More would only miss their deadlines. */
const PENDING_MAX = 8_192;
/** Their JSON in UTF-16 units. */
const PENDING_LENGTH_MAX = 32 * 1024 * 1024;
/** Calls of a service that wait for an instance. */
const HELD_MAX = 8_192;
const OVERLOADED_RETRY_MS = 250;
/** Lost answers that an idempotent call survives: a call that kills whoever runs it must not go round for ever. */
const LOST_MAX = 3;
/** Wait before the next look for an instance: short first, for most absences are a restart. */
const LOOK_FIRST_MS = 20;
const LOOK_MAX_MS = 500;

export interface ClientContext {
  readonly tokens: Tokens;
  readonly metrics: Metrics;
  readonly directory: Directory;
  /** The instance of this very process, when it serves the service. */
  localService(): LocalService | undefined;
}

export interface LocalService {
  readonly instance: string;
  fetch(request: Request): Response | Promise<Response>;
}

export function createClient<C extends Contract>(contract: C, context: ClientContext): Client<C> {
  const service = new ServiceClient(contract.service, context);
  const methods = Object.entries(contract.methods).map(([name, method]) => {
    const calls = new MethodCalls(service, name, method, context.metrics);
    service.methods.push(calls);
    return [name, (input: unknown, options?: CallOptions) => calls.call(input, options)];
  });
  return Object.freeze(Object.fromEntries(methods)) as Client<C>;
}

/** The instances of one service, and the clock of its calls. */
class ServiceClient {
  readonly methods: MethodCalls[] = [];
  readonly open = new Set<Call>();
  heldCount = 0;
  private targets: Target[] = [];
  private seen: readonly Instance[] | undefined;
  private local: { readonly found: LocalService; readonly target: Target } | undefined;
  private turn = 0;
  private isReading = false;
  private sweepTimer: ReturnType<typeof setTimeout> | undefined;
  private lookTimer: ReturnType<typeof setTimeout> | undefined;
  private looks = 0;

  constructor(
    readonly name: string,
    private readonly context: ClientContext,
  ) {}

  /** The instance for a call: this process; else by key; else the one with least under way, in turn. */
  choose(key: string | undefined): Target | undefined {
    if (this.local) return this.local.target;
    const now = performance.now();
    const { targets } = this;
    const keyHash = key === undefined || targets.length === 1 ? 0 : hashOf(key);
    this.turn += 1;
    let best: Target | undefined;
    let bestScore = Number.NEGATIVE_INFINITY;
    for (let i = 0; i < targets.length; i++) {
      const target = targets[(i + this.turn) % targets.length]!;
      if (!target.isAvailable(now)) continue;
      const score = key === undefined ? -target.pending : weightOf(keyHash, target.hash);
      if (score > bestScore) [best, bestScore] = [target, score];
    }
    best?.taken();
    return best;
  }

  watch(call: Call): void {
    this.open.add(call);
    this.sweepTimer ??= setTimeout(() => this.sweep(), SWEEP_MS);
  }

  /** Takes over what changed since the last call. True when held calls may find an instance now. */
  follow(): boolean {
    const found = this.context.localService();
    if (found !== this.local?.found) {
      if (this.local) this.retire(this.local.target);
      this.local = found && { found, target: this.localTarget(found) };
      return true;
    }
    if (found) return false;
    const { directory } = this.context;
    if (!this.isReading && directory.isStale()) {
      // The first look is waited for by the held calls; later ones happen beside the calls.
      this.isReading = true;
      void directory.refresh().then(() => {
        this.isReading = false;
        if (this.heldCount > 0) this.release();
      });
    }
    const view = directory.view();
    if (view === undefined || view === this.seen) return false;
    this.seen = view;
    this.takeOver(view);
    return true;
  }

  /** Lets held calls go, as far as instances take them; for the rest looks at the registry again. */
  release(): void {
    this.follow();
    for (const method of this.methods) method.release();
    if (this.heldCount > 0) this.lookSoon();
  }

  succeeded(): void {
    this.looks = 0;
    if (this.heldCount > 0) this.release();
  }

  /** Calls are held: look at the registry, soon after a failure, then with growing waits. */
  lookSoon(): void {
    if (this.lookTimer !== undefined) return;
    const waitMs = Math.min(LOOK_MAX_MS, LOOK_FIRST_MS * 2 ** Math.min(this.looks, 10));
    this.looks += 1;
    this.lookTimer = setTimeout(async () => {
      await this.context.directory.refresh();
      this.lookTimer = undefined;
      this.release();
    }, waitMs);
  }

  private localTarget(found: LocalService): Target {
    const instance = { name: found.instance, incarnation: "", address: "", load: 0, draining: false };
    return new Target(instance, this.context.tokens, (request) => found.fetch(request));
  }

  /** New instances join; those that are gone give their calls back. */
  private takeOver(view: readonly Instance[]): void {
    const known = new Map(this.targets.map((target) => [identityOf(target.instance), target]));
    this.targets = view
      .filter((instance) => instance.address !== "")
      .map((instance) => {
        const target = known.get(identityOf(instance)) ?? new Target(instance, this.context.tokens);
        known.delete(identityOf(instance));
        if (instance.draining) target.isDraining = true;
        return target;
      });
    for (const gone of known.values()) {
      this.retire(gone);
      for (const request of gone.requests) request.abort();
    }
  }

  private retire(target: Target): void {
    for (const method of this.methods) method.retire(target);
  }

  private sweep(): void {
    this.sweepTimer = undefined;
    const now = performance.now();
    for (const call of this.open) if (call.deadlineAt <= now) call.owner.expire(call);
    if (this.open.size === 0) return;
    // While calls are open somebody must notice that their instance died.
    if (this.follow()) this.release();
    this.sweepTimer ??= setTimeout(() => this.sweep(), SWEEP_MS);
  }
}

/** The calls of one method. */
class MethodCalls implements LaneOwner {
  readonly service: string;
  readonly isBatchable: boolean;
  private readonly lanes = new Map<Target, Lane>();
  private held: Call[] = [];
  /** Key -> where its open calls are, so that a change of instances does not let a call overtake one of the same key. */
  private readonly pinned = new Map<string, { readonly lane: Lane; count: number }>();
  private readonly seconds;
  private readonly succeededCount;

  constructor(
    private readonly client: ServiceClient,
    readonly method: string,
    private readonly contract: MethodContract,
    private readonly metrics: Metrics,
  ) {
    this.service = client.name;
    this.isBatchable = contract.batchable ?? false;
    this.seconds = metrics.rpcSeconds.labels(this.service, method);
    this.succeededCount = metrics.rpcCalls.labels(this.service, method, "ok");
  }

  call(input: unknown, options: CallOptions = {}): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const timeoutMs = options.timeoutMs ?? this.contract.timeoutMs ?? CALL_TIMEOUT_MS;
      const key = this.contract.affinity?.(input as never);
      const text = JSON.stringify(input);
      if (text.length > BATCH_LENGTH_MAX) {
        reject(
          new AppError("TOO_LARGE", `${this.service}.${this.method} takes at most ${BATCH_LENGTH_MAX} characters`),
        );
        return;
      }
      const call = new Call(this, text, key, timeoutMs, options.traceparent, resolve, reject);
      this.client.watch(call);
      if (this.client.follow()) this.client.release();
      if (this.held.length > 0 || !this.route(call)) this.hold(call);
    });
  }

  /** Lets held calls go, in order, as far as instances take them. */
  release(): void {
    let released = 0;
    for (const call of this.held) {
      if (call.state === "held" && !this.route(call)) break;
      released += 1;
    }
    this.held.splice(0, released);
    this.client.heldCount -= released;
  }

  /** The instance is gone for good. What it has under way is aborted by the caller and comes back by that way. */
  retire(target: Target): void {
    const lane = this.lanes.get(target);
    if (!lane) return;
    this.lanes.delete(target);
    this.holdFirst(lane.drain());
  }

  expire(call: Call): void {
    const { state, request } = call;
    if (state === "sent") {
      this.fail(
        call,
        this.contract.idempotent
          ? new AppError(
              "DEADLINE_EXCEEDED",
              `${this.service}.${this.method} gave no answer within ${call.timeoutMs} ms`,
            )
          : new AppError("UNKNOWN_OUTCOME"),
      );
      if (request) {
        request.open -= 1;
        if (request.open === 0) request.abort.abort();
      }
    } else if (call.lostCount > 0) this.fail(call, new AppError("UNKNOWN_OUTCOME"));
    else {
      const why = state === "held" ? `no instance of ${this.service} took the call` : `${this.service} is too busy`;
      this.fail(call, overloaded(`${why} within ${call.timeoutMs} ms`));
    }
  }

  finish(call: Call, value: unknown): void {
    call.state = "settled";
    this.client.open.delete(call);
    call.resolve(value);
  }

  fail(call: Call, error: AppError): void {
    call.state = "settled";
    this.client.open.delete(call);
    this.metrics.rpcCalls.inc({ service: this.service, method: this.method, outcome: error.code });
    call.reject(error);
  }

  answered(seconds: number, finished: number): void {
    this.seconds.observe(seconds);
    this.succeededCount.inc(finished);
    this.client.succeeded();
  }

  comeBack(calls: readonly Call[], mayHaveRun: boolean, queued: readonly Call[]): void {
    const again: Call[] = [];
    for (const call of calls) {
      if (mayHaveRun) call.lostCount += 1;
      if (mayHaveRun && (!this.contract.idempotent || call.lostCount >= LOST_MAX)) {
        this.fail(call, new AppError("UNKNOWN_OUTCOME"));
      } else again.push(call);
    }
    this.holdFirst([...again, ...queued]);
    this.client.release();
  }

  left(call: Call, lane: Lane): void {
    if (call.key === undefined) return;
    const pin = this.pinned.get(call.key);
    if (pin?.lane !== lane) return;
    pin.count -= 1;
    if (pin.count === 0) this.pinned.delete(call.key);
  }

  /** Queues the call with an instance; false when none takes calls now. */
  private route(call: Call): boolean {
    const pin = call.key === undefined ? undefined : this.pinned.get(call.key);
    const target = pin ? pin.lane.target : this.client.choose(call.key);
    if (!target) return false;
    if (target.pending >= PENDING_MAX || target.pendingLength + call.text.length > PENDING_LENGTH_MAX) {
      this.fail(call, overloaded(`${this.service} is too busy`));
      return true;
    }
    let lane = pin?.lane ?? this.lanes.get(target);
    if (!lane) {
      lane = new Lane(target, this);
      this.lanes.set(target, lane);
    }
    if (pin) pin.count += 1;
    else if (call.key !== undefined) this.pinned.set(call.key, { lane, count: 1 });
    lane.push(call);
    return true;
  }

  private hold(call: Call): void {
    if (this.client.heldCount >= HELD_MAX) {
      this.fail(call, overloaded(`no instance of ${this.service} takes calls`));
      return;
    }
    call.state = "held";
    this.held.push(call);
    this.client.heldCount += 1;
    this.client.lookSoon();
  }

  /** These were here before: they go to the front. */
  private holdFirst(calls: readonly Call[]): void {
    for (const call of calls) call.state = "held";
    this.held.unshift(...calls);
    this.client.heldCount += calls.length;
  }
}

function identityOf(instance: Instance): string {
  return `${instance.name} ${instance.incarnation} ${instance.address}`;
}

function overloaded(detail: string): AppError {
  return new AppError("OVERLOADED", detail, { retryAfterMs: OVERLOADED_RETRY_MS });
}
