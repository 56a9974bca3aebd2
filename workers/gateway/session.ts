/**
 * One socket's life.
 *
 *   opening ── session.open, or credentials of the upgrade ──► attaching ── route written ──► open ──► closed
 *      │ 5 s                                                       │ logic away                │ drain, expiry, too slow
 *      └──────► 4504 / 4501 / 4502                                 └──► 4013                   └──► 4000 / 4502 / 4008
 *
 * The route is written before the session answers, and live frames wait until the answer is out: so what a client syncs
 * after (or by) opening and what is pushed to it leave no hole. Requests run at once and answer in their own time.
 */

import * as v from "valibot";
import { AppError, ERRORS } from "../../lib/errors.ts";
import { isExpired, type ServicePass, type TokenClaims, validate } from "../../lib/http/index.ts";
import type { UserId } from "../../lib/id.ts";
import { CursorSchema, IdSchema, LIMITS, NoParams, type PresenceState, SyncReply } from "../../lib/im/index.ts";
import { Batch } from "./batch.ts";
import {
  errorFrame,
  idOf,
  notificationFrame,
  parseFrame,
  type RequestId,
  type RpcRequest,
  readRequest,
  resultFrame,
} from "./frames.ts";
import { type Caller, type Method, webSocketMethods } from "./methods.ts";
import { CLOSE_TOO_SLOW, Outbox, type Socket } from "./outbox.ts";
import type { Sessions } from "./sessions.ts";

/** protocol.md: 4000–4499 reconnect with back-off, 4500–4999 do not. */
export const CLOSE = {
  draining: 4000,
  tooSlow: CLOSE_TOO_SLOW,
  overloaded: 4013,
  badToken: 4501,
  expired: 4502,
  kicked: 4503,
  authDeadline: 4504,
  protocolError: 4505,
} as const;

/** design.md §10. */
export const AUTH_DEADLINE_MS = 5_000;
export const HEARTBEAT_MS = 25_000;
/** Before we know who it is, a frame is a session.open and no more: a token of 3 800 characters fits. */
const OPENING_FRAME_CHARACTERS_MAX = 4 * 1_024;
/** So many unreadable frames in a row are no slip of a client. */
const FAULTS_MAX = 10;
const BUSY_RETRY_MS = 100;
/** A client learns while draining that another gateway takes it. */
const DRAINING_RETRY_MS = 500;

export const OpenParams = v.strictObject({
  token: v.string("must be a string"),
  device: v.optional(IdSchema),
  cursors: v.optional(
    v.pipe(v.array(CursorSchema), v.maxLength(LIMITS.cursors, `must be at most ${LIMITS.cursors} cursors`)),
  ),
});
type OpenParams = v.InferOutput<typeof OpenParams>;

export const OpenReply = v.strictObject({
  user: v.string(),
  connection: v.string(),
  ackLevel: v.string(),
  serverTime: v.number(),
  limits: v.record(v.string(), v.number()),
  heartbeatMs: v.number(),
  /** Of an opening with cursors. */
  sync: v.optional(SyncReply),
});

export interface SessionSocket extends Socket {
  close(code: number, reason: string): void;
  terminate(): void;
  ping(): unknown;
}

/** Whom the upgrade's Authorization header let in. */
export interface SessionClaims extends TokenClaims {
  /** Of a service that acts for the user. */
  readonly pass?: ServicePass;
}

export class Session implements Caller {
  state: "opening" | "attaching" | "open" | "closed" = "opening";
  user: UserId | undefined;
  device = "";
  expiresAt = Number.POSITIVE_INFINITY;
  /** When the route was written last; 0 when it must be written again. */
  attachedAt = 0;
  hasRoute = false;
  readonly outbox: Outbox;
  private socket: SessionSocket | undefined;
  private inFlight = 0;
  private faults = 0;
  private isDraining = false;
  private attaching: Promise<unknown> | undefined;

  constructor(
    private readonly sessions: Sessions,
    /** Names the connection everywhere. */
    readonly id: string,
    /** Names it within this gateway; never used twice, so that no late frame reaches the wrong user. */
    readonly number: number,
    readonly startedAt: number,
    readonly claims: SessionClaims | undefined,
  ) {
    this.outbox = new Outbox(sessions.writer, () => this.close(CLOSE.tooSlow, "too slow"));
  }

  // What the socket says

  opened(socket: SessionSocket): void {
    this.socket = socket;
    this.outbox.socket = socket;
    if (this.claims) void this.open(this.claims, {}, undefined);
  }

  received(frame: string | Uint8Array): void {
    if (this.state === "closed" || this.endIfExpired()) return;
    this.sessions.framesIn += 1;
    if (typeof frame !== "string") {
      this.close(CLOSE.protocolError, "binary frames are not part of the protocol");
      return;
    }
    if (this.state === "opening" && frame.length > OPENING_FRAME_CHARACTERS_MAX) {
      this.close(CLOSE.protocolError, "a frame before session.open is at most 4 KiB");
      return;
    }
    let value: unknown;
    try {
      value = parseFrame(frame);
    } catch (error) {
      this.fault(null, error, undefined);
      return;
    }
    if (Array.isArray(value)) this.runBatch(value);
    else this.run(value, undefined);
  }

  ended(): void {
    if (this.state === "closed" && !this.socket) return;
    this.state = "closed";
    this.socket = undefined;
    this.outbox.drop();
    this.sessions.remove(this);
    // Not before the attach has settled, or it would come after and stay. One that failed may have been executed.
    const detach = () => this.sessions.detach(this);
    if (this.attaching) void this.attaching.then(detach, detach);
    else if (this.hasRoute) detach();
  }

  // What the gateway says

  /** A live frame. With the token everything ends, at that moment and not when the timer looks. */
  deliver(frame: string): void {
    if (!this.endIfExpired()) this.outbox.deliver(frame);
  }

  private endIfExpired(): boolean {
    if (this.expiresAt > this.sessions.clock.now()) return false;
    this.close(CLOSE.expired, "the token has expired");
    return true;
  }

  close(code: number, reason: string): void {
    if (this.state === "closed" || !this.socket) return;
    this.state = "closed";
    // What is too slow takes no more.
    if (code !== CLOSE.tooSlow) this.outbox.flush();
    const { socket } = this;
    this.sessions.closing(this);
    socket.close(code, reason);
  }

  /** Cuts the socket of a session whose close frame was not answered. */
  cut(): void {
    this.socket?.terminate();
  }

  ping(): void {
    this.socket?.ping();
  }

  /** Says when to come back, lets requests under way answer, and closes. */
  drain(reconnectInMs: number): void {
    if (this.state === "closed" || this.isDraining) return;
    this.isDraining = true;
    this.outbox.write(notificationFrame("session.closing", { reason: "draining", reconnectInMs }));
    this.closeWhenDrained();
  }

  resync(reason: string): void {
    if (this.state !== "open") return;
    this.sessions.writer.metrics.resyncs.inc({ reason });
    this.outbox.write(notificationFrame("session.resync", { reason }));
  }

  // What methods ask of their socket

  watch(users: readonly UserId[]): Promise<PresenceState[]> {
    return this.sessions.passing.watch(this, users);
  }

  unwatch(users: readonly string[]): void {
    this.sessions.passing.unwatch(this, users);
  }

  type(conversation: string, on: boolean): Promise<void> {
    return this.sessions.passing.type(this, conversation, on);
  }

  stopTyping(conversation: string): void {
    this.sessions.passing.stopTyping(this, conversation);
  }

  // Requests

  private runBatch(values: readonly unknown[]): void {
    if (values.length === 0 || values.length > LIMITS.batchFrames) {
      const error = new AppError("INVALID", `A batch holds 1 to ${LIMITS.batchFrames} requests`);
      this.fault(null, error, undefined);
      return;
    }
    const batch = new Batch(values.length);
    for (const value of values) this.run(value, batch);
  }

  private run(value: unknown, batch: Batch | undefined): void {
    let request: RpcRequest;
    try {
      request = readRequest(value);
    } catch (error) {
      this.fault(idOf(value), error, batch);
      return;
    }
    this.faults = 0;
    if (this.state !== "open") {
      this.runEarly(request, batch);
      return;
    }
    const method = webSocketMethods.get(request.method);
    if (method) this.call(request.id, method, request.params, batch);
    else this.runOwn(request, batch);
  }

  private call(id: RequestId, method: Method, params: unknown, batch: Batch | undefined): void {
    const { sessions, user } = this;
    let answer: Promise<unknown>;
    try {
      if (this.isDraining)
        throw new AppError("OVERLOADED", "This gateway is draining", { retryAfterMs: DRAINING_RETRY_MS });
      if (this.inFlight >= LIMITS.requestsInFlight) {
        const detail = `At most ${LIMITS.requestsInFlight} requests of a connection at once`;
        throw new AppError("RATE_LIMITED", detail, { retryAfterMs: BUSY_RETRY_MS });
      }
      // 0.5 of the 1.6 µs that a send costs here with its answer: no hand-written check beside the schema is worth it.
      const valid = validate(method.params, params);
      if (method.limit) sessions.limiters[method.limit].take(user!, sessions.clock.now());
      answer = method.call(sessions.logic, user!, valid, this);
    } catch (error) {
      this.fail(id, error, batch);
      return;
    }
    this.inFlight += 1;
    answer.then(
      (result) => {
        this.inFlight -= 1;
        this.succeed(id, JSON.stringify(result), batch);
        if (this.isDraining) this.closeWhenDrained();
      },
      (error: unknown) => {
        this.inFlight -= 1;
        this.fail(id, error, batch);
        if (this.isDraining) this.closeWhenDrained();
      },
    );
  }

  private runOwn({ id, method, params }: RpcRequest, batch: Batch | undefined): void {
    if (method === "session.ping") {
      try {
        validate(NoParams, params);
      } catch (error) {
        this.fail(id, error, batch);
        return;
      }
      this.succeed(id, `{"serverTime":${this.sessions.clock.now()}}`, batch);
    } else if (method === "session.open") {
      this.fail(id, new AppError("CONFLICT", "The session is open already"), batch);
    } else {
      this.fail(id, new AppError("METHOD_NOT_FOUND"), batch);
    }
  }

  /** Before the session is open there is one method. */
  private runEarly({ id, method, params }: RpcRequest, batch: Batch | undefined): void {
    if (method !== "session.open" || this.state !== "opening") {
      const detail = this.state === "opening" ? "session.open comes first" : "session.open is not answered yet";
      this.fail(id, new AppError("UNAUTHENTICATED", detail), batch);
      return;
    }
    let open: OpenParams;
    try {
      open = validate(OpenParams, params);
    } catch (error) {
      this.fail(id, error, batch);
      return;
    }
    this.state = "attaching";
    this.sessions.auth.verifyToken(open.token).then(
      (claims) => this.open(claims, open, { id, batch }),
      (error: unknown) => {
        this.fail(id, error, batch);
        if (error instanceof AppError && error.code !== "UNAUTHENTICATED") this.close(CLOSE.overloaded, "try again");
        else this.close(isExpired(error) ? CLOSE.expired : CLOSE.badToken, "the token is not accepted");
      },
    );
  }

  /** Writes the route, then answers. `request` is undefined when the upgrade authenticated: then the answer is a notification. */
  private async open(
    { user, expiresAt }: TokenClaims,
    { device, cursors }: Partial<OpenParams>,
    request: { readonly id: RequestId; readonly batch: Batch | undefined } | undefined,
  ): Promise<void> {
    const { sessions } = this;
    if (this.socket === undefined) return;
    this.state = "attaching";
    this.user = user;
    this.expiresAt = expiresAt;
    this.device = device ?? "";
    this.outbox.hold();
    sessions.admit(this);
    try {
      this.attaching = sessions.attach(this);
      await this.attaching;
      this.attaching = undefined;
      const ackLevel = await sessions.ackLevel();
      const synced = cursors ? await sessions.logic.sync({ by: user, params: { cursors } }) : undefined;
      // It may have been closed meanwhile.
      if ((this.state as string) !== "attaching") return;
      this.state = "open";
      const { clock, limits } = sessions;
      const answer = {
        user,
        connection: this.id,
        ackLevel,
        serverTime: clock.now(),
        limits,
        heartbeatMs: HEARTBEAT_MS,
      };
      const full = synced === undefined ? answer : { ...answer, sync: synced };
      if (request) this.succeed(request.id, JSON.stringify(full), request.batch);
      else this.outbox.write(notificationFrame("session.ready", full));
      this.outbox.release();
    } catch (error) {
      this.attaching = undefined;
      if (request) this.fail(request.id, error, request.batch);
      this.close(CLOSE.overloaded, "the session could not be opened");
    }
  }

  // Answers

  private succeed(id: RequestId, result: string, batch: Batch | undefined): void {
    this.answer(resultFrame(id, result), id, batch);
  }

  private fail(id: RequestId | null, error: unknown, batch: Batch | undefined, isEnvelope = false): void {
    if (!(error instanceof AppError) || ERRORS[error.code].status === 500) {
      this.sessions.log.error({ connection: this.id, error }, "request failed");
    }
    this.answer(errorFrame(id, error, isEnvelope), id, batch);
  }

  /** A frame, or a part of one, that is no request. */
  private fault(id: RequestId | null, error: unknown, batch: Batch | undefined): void {
    this.fail(id, error, batch, true);
    this.faults += 1;
    if (this.faults >= FAULTS_MAX) this.close(CLOSE.protocolError, "no JSON-RPC requests");
  }

  /** Not what was asked for while the token was good, and is known only now that it has ended. */
  private answer(frame: string, id: RequestId | null, batch: Batch | undefined): void {
    if (this.state === "closed" || this.endIfExpired()) return;
    const whole = batch ? batch.add(frame, id) : frame;
    if (whole !== undefined) this.outbox.write(whole);
  }

  private closeWhenDrained(): void {
    if (this.inFlight === 0) this.close(CLOSE.draining, "draining");
  }
}
