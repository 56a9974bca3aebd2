/**
 * The sockets of this gateway: found by number and by user, counted, and looked after by one timer for all (deadlines,
 * expiry, pings, sockets that do not close), so that an idle connection costs no timer of its own.
 *
 * Routes (connection -> this gateway) are logic's; they are written at opening, again before they would expire or when they
 * may have been lost, and removed at the end. A removal that fails is tried again with the next heartbeat.
 */

import type { Clock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import type { Authenticator, ServicePass } from "../../lib/http/index.ts";
import { newId } from "../../lib/id.ts";
import type { Log, Metrics } from "../../lib/observability/index.ts";
import type { Limiters, Logic } from "./methods.ts";
import { Writer } from "./outbox.ts";
import { Passing } from "./passing.ts";
import { AUTH_DEADLINE_MS, CLOSE, HEARTBEAT_MS, Session, type SessionClaims } from "./session.ts";
import { Subscriptions } from "./subscriptions.ts";

/** Sockets of one gateway, some 5 KB each. */
const CONNECTIONS_MAX = 50_000;
/** Sockets that have not opened a session yet: bounds what strangers can hold. */
const OPENING_MAX = 4_096;
/**
 * Sockets of a user on this gateway. The oldest makes room (4503, does not reconnect): a phone whose half-open sockets the idle
 * time-out has not found yet gets in at once, and two devices do not push each other out for ever.
 */
const CONNECTIONS_PER_USER_MAX = 20;
const SWEEP_MS = 500;
/** Service keys are asked for again at every second sweep: no more often than the store asks Redis (service-key-store.ts). */
const SWEEPS_PER_LOOK = 2;
/** A peer that does not answer the close frame is cut. */
const CLOSE_TIMEOUT_MS = 3_000;
/** Clients of a draining gateway come back spread over as long as a thousand a second take: few at once, many within 10 s. */
const RECONNECTS_PER_MS = 1;
const RECONNECT_MIN_MS = 250;
const RECONNECT_MAX_MS = 10_000;
/** Half the life that logic gives a route. */
const ROUTE_AGE_MAX_MS = 12 * 3_600_000;
/** Routes written again at once. */
const ATTACH_PARALLEL = 256;
/** A drain waits for detaches: less than its own 10 s. */
const DETACH_TIMEOUT_MS = 2_000;
/** Failed detaches remembered; a route that is forgotten here expires. */
const DETACHES_MAX = 10_000;
/** The ack level is asked for again after this. */
const ACK_LEVEL_AGE_MS = 5_000;

export interface SessionsParts {
  readonly node: string;
  readonly logic: Logic;
  readonly auth: Authenticator;
  readonly limiters: Limiters;
  /** What the session's answer tells the client. */
  readonly limits: Readonly<Record<string, number>>;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
}

export class Sessions {
  readonly logic: Logic;
  readonly auth: Authenticator;
  readonly limiters: Limiters;
  readonly limits: Readonly<Record<string, number>>;
  readonly clock: Clock;
  readonly log: Log;
  readonly writer: Writer;
  readonly subscriptions = new Subscriptions<Session>();
  readonly passing: Passing;
  /** Counted here and reported by the sweep: a metric per frame costs more than its dispatch. */
  framesIn = 0;
  isDraining = false;
  private node: string;
  private readonly metrics: Metrics;
  private readonly byNumber = new Map<number, Session>();
  private readonly byUser = new Map<string, Session[]>();
  private readonly opening = new Set<Session>();
  private readonly closingSince = new Map<Session, number>();
  private readonly detaches = new Map<string, string>();
  private detaching = 0;
  /** How often routes were in doubt. */
  private doubts = 0;
  private lastNumber = 0;
  private turn = 0;
  private timer: ReturnType<typeof setInterval> | undefined;
  private level: { readonly value: string; readonly at: number } | undefined;

  constructor({ node, logic, auth, limiters, limits, clock, log, metrics }: SessionsParts) {
    this.node = node;
    this.logic = logic;
    this.auth = auth;
    this.limiters = limiters;
    this.passing = new Passing({ node, logic, clock, log });
    this.limits = limits;
    this.clock = clock;
    this.log = log;
    this.metrics = metrics;
    this.writer = new Writer(metrics);
  }

  get size(): number {
    return this.byNumber.size;
  }

  start(): void {
    this.timer = setInterval(() => this.sweep(), SWEEP_MS);
  }

  /** Throws OVERLOADED when no further socket is taken. */
  create(claims: SessionClaims | undefined): Session {
    if (this.isDraining) throw new AppError("OVERLOADED", "This gateway is draining", { retryAfterMs: 1_000 });
    if (this.byNumber.size >= CONNECTIONS_MAX || this.opening.size >= OPENING_MAX) {
      throw new AppError("OVERLOADED", "This gateway takes no more connections now", { retryAfterMs: 2_000 });
    }
    const now = this.clock.now();
    this.lastNumber += 1;
    return new Session(this, newId(now), this.lastNumber, now, claims);
  }

  /** The socket is there. Until now the session counts for nothing: an upgrade may fail. */
  add(session: Session): void {
    this.byNumber.set(session.number, session);
    this.opening.add(session);
    this.metrics.connections.set(this.byNumber.size);
  }

  remove(session: Session): void {
    this.byNumber.delete(session.number);
    this.opening.delete(session);
    this.closingSince.delete(session);
    this.subscriptions.end(session);
    this.passing.end(session);
    this.metrics.connections.set(this.byNumber.size);
    if (session.user === undefined) return;
    const left = this.byUser.get(session.user)?.filter((other) => other !== session);
    if (left && left.length > 0) this.byUser.set(session.user, left);
    else this.byUser.delete(session.user);
  }

  /** The session's user is known. */
  admit(session: Session): void {
    this.opening.delete(session);
    const user = session.user!;
    const others = this.byUser.get(user);
    if (!others) {
      this.byUser.set(user, [session]);
      return;
    }
    others.push(session);
    if (others.length > CONNECTIONS_PER_USER_MAX) {
      others.shift()!.close(CLOSE.kicked, `a user has at most ${CONNECTIONS_PER_USER_MAX} connections`);
    }
  }

  closing(session: Session): void {
    this.closingSince.set(session, this.clock.now());
  }

  deliver(number: number, frame: string): void {
    this.byNumber.get(number)?.deliver(frame);
  }

  /** To the channel's subscribers here, but not to the connection of this number. */
  deliverToChannel(channel: string, frame: string, except: number): void {
    for (const session of this.subscriptions.of(channel)) {
      if (session.number !== except) session.deliver(frame);
    }
  }

  deliverToWatchers(user: string, frame: string): void {
    for (const session of this.passing.watches.of(user)) session.deliver(frame);
  }

  /** The user has blocked those of these connections. */
  unwatch(numbers: readonly number[], user: string): void {
    for (const number of numbers) {
      const session = this.byNumber.get(number);
      if (session) this.passing.unwatch(session, [user]);
    }
  }

  /** These connections' users came into the channel, or left it, by its entry `seq`. */
  changeSubscribers(numbers: readonly number[], channel: string, seq: number, isIn: boolean): void {
    for (const number of numbers) {
      const session = this.byNumber.get(number);
      if (session) this.subscriptions.change(session, channel, seq, isIn);
    }
  }

  /** Closes these connections for good: their user has sent them away. */
  kick(numbers: readonly number[], reason: string): void {
    for (const number of numbers) this.byNumber.get(number)?.close(CLOSE.kicked, reason);
  }

  deliverToAll(frame: string): void {
    for (const session of this.byNumber.values()) if (session.state === "open") session.deliver(frame);
  }

  resyncAll(reason: string): void {
    for (const session of this.byNumber.values()) session.resync(reason);
  }

  // Routes

  async attach(session: Session): Promise<void> {
    const { node, doubts } = this;
    // Whatever comes of it, it may have been executed.
    session.hasRoute = true;
    this.subscriptions.begin(session);
    const { channels } = await this.logic.attach({
      user: session.user!,
      connection: session.id,
      gateway: node,
      number: session.number,
      device: session.device,
    });
    this.subscriptions.settle(session, channels);
    // In doubt meanwhile: it is due again. Else as of the answer, which comes after what it tells of.
    session.attachedAt = doubts === this.doubts ? this.clock.now() : 0;
  }

  detach(session: Session): void {
    const { id, user } = session;
    this.detaching += 1;
    this.logic.detach({ user: user!, connection: id }, { timeoutMs: DETACH_TIMEOUT_MS }).then(
      () => {
        this.detaching -= 1;
        this.detaches.delete(id);
      },
      (error: unknown) => {
        this.detaching -= 1;
        this.log.debug({ connection: id, error }, "detach failed");
        if (this.detaches.size < DETACHES_MAX) this.detaches.set(id, user!);
      },
    );
  }

  /** Delivery finds us under this name from now on: every route is written again, and its client told to sync. */
  moveTo(node: string): void {
    this.node = node;
    this.passing.moveTo(node);
    this.doubtRoutes(0);
  }

  /** Routes written since then may be lost: they are written again, and their clients told to sync. */
  doubtRoutes(sinceMs: number): void {
    this.doubts += 1;
    for (const session of this.byNumber.values()) if (session.attachedAt >= sinceMs) session.attachedAt = 0;
  }

  /** Writes what is due: routes that are old or in doubt, and removals that failed. Stops at the first failure. */
  async refreshRoutes(): Promise<void> {
    const oldest = this.clock.now() - ROUTE_AGE_MAX_MS;
    const due: Session[] = [];
    for (const session of this.byNumber.values()) {
      if (session.state === "open" && session.attachedAt < oldest) due.push(session);
    }
    for (let i = 0; i < due.length; i += ATTACH_PARALLEL) {
      await Promise.all(due.slice(i, i + ATTACH_PARALLEL).map((session) => this.attachAgain(session)));
    }
    for (const [connection, user] of this.detaches) {
      await this.logic.detach({ user, connection });
      this.detaches.delete(connection);
    }
    await this.passing.renewWatches();
  }

  private async attachAgain(session: Session): Promise<void> {
    const wasLost = session.attachedAt === 0;
    await this.attach(session);
    // Closed meanwhile: its own detach may have come first.
    if (session.state !== "open") this.detach(session);
    else if (wasLost) session.resync("lost");
  }

  /** Whether Redis forgets nothing that it has answered, as far as is known. A replica may: only sends wait for it. */
  get isDurable(): boolean {
    return this.level?.value === "disk";
  }

  /** What the deployment promises, at most some seconds old. */
  async ackLevel(): Promise<string> {
    if (this.level === undefined) return this.askAckLevel();
    if (this.clock.now() - this.level.at > ACK_LEVEL_AGE_MS) {
      this.level = { value: this.level.value, at: this.clock.now() };
      this.askAckLevel().catch((error: unknown) => this.log.debug({ error }, "ack level not known anew"));
    }
    return this.level.value;
  }

  private async askAckLevel(): Promise<string> {
    const { ackLevel } = await this.logic.status({});
    this.level = { value: ackLevel, at: this.clock.now() };
    return ackLevel;
  }

  // The one timer

  private sweep(): void {
    const now = this.clock.now();
    this.turn += 1;
    for (const session of this.opening) {
      // Oldest first.
      if (now - session.startedAt < AUTH_DEADLINE_MS) break;
      if (session.state === "opening") session.close(CLOSE.authDeadline, "no session.open in time");
    }
    for (const [session, since] of this.closingSince) if (now - since > CLOSE_TIMEOUT_MS) session.cut();
    // Every session is pinged once in HEARTBEAT_MS, each sweep an equal share of them.
    const shares = HEARTBEAT_MS / SWEEP_MS;
    const share = this.turn % shares;
    for (const session of this.byNumber.values()) {
      if (session.expiresAt <= now) session.close(CLOSE.expired, "the token has expired");
      else if (session.number % shares === share) session.ping();
    }
    if (this.turn % SWEEPS_PER_LOOK === 0) this.closeRevoked();
    this.passing.sweep(now);
    if (this.framesIn > 0) this.metrics.frames.inc({ direction: "in" }, this.framesIn);
    this.framesIn = 0;
  }

  /** Of services whose key was revoked. While that cannot be known, as without Redis, they stay. */
  private closeRevoked(): void {
    // One question per key: a service may have thousands of sockets.
    const byDigest = new Map<string, { readonly pass: ServicePass; readonly sessions: Session[] }>();
    for (const session of this.byNumber.values()) {
      const pass = session.claims?.pass;
      if (!pass) continue;
      const found = byDigest.get(pass.digest);
      if (found) found.sessions.push(session);
      else byDigest.set(pass.digest, { pass, sessions: [session] });
    }
    for (const { pass, sessions } of byDigest.values()) {
      this.auth.isInForce(pass).then(
        (isInForce) => {
          if (!isInForce) for (const session of sessions) session.close(CLOSE.badToken, "the service key was revoked");
        },
        (error: unknown) => this.log.debug({ key: pass.key, error }, "a service key could not be looked up"),
      );
    }
  }

  // The end

  /** Tells every client when to come back, lets requests under way answer, closes; at `signal` cuts what is left. */
  async drain(signal: AbortSignal): Promise<void> {
    this.isDraining = true;
    const spreadMs = Math.min(RECONNECT_MAX_MS, RECONNECT_MIN_MS + this.byNumber.size / RECONNECTS_PER_MS);
    for (const session of this.byNumber.values()) session.drain(Math.round(Math.random() * spreadMs));
    while ((this.byNumber.size > 0 || this.detaching > 0) && !signal.aborted)
      await this.clock.sleep(DRAIN_LOOK_MS, signal);
    for (const session of this.byNumber.values()) session.cut();
    clearInterval(this.timer);
  }
}

const DRAIN_LOOK_MS = 20;
