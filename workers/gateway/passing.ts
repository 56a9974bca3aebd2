/**
 * Presence and typing, as this gateway's connections hear and say it: nothing that is stored, all of it bounded, and all of it
 * over by itself when the connection, or this gateway, is gone.
 */

import type { Clock } from "../../lib/clock.ts";
import type { UserId } from "../../lib/id.ts";
import { type PresenceState, WATCH_MS } from "../../lib/im/index.ts";
import type { Log } from "../../lib/observability/index.ts";
import type { Logic } from "./methods.ts";
import type { Session } from "./session.ts";
import { Typists } from "./typists.ts";
import { Watches } from "./watches.ts";

/** As many as one call takes. */
const WATCHES_PER_CALL = 1_000;

export interface PassingParts {
  readonly node: string;
  readonly logic: Logic;
  readonly clock: Clock;
  readonly log: Log;
}

export class Passing {
  readonly watches = new Watches<Session>();
  private readonly typists = new Typists<Session>();
  private renewedAt = 0;
  private node: string;

  constructor(private readonly parts: PassingParts) {
    this.node = parts.node;
  }

  /** What is watched is to be heard of under this name. */
  moveTo(node: string): void {
    this.node = node;
    this.renewedAt = 0;
  }

  /** Answers with the users' presence; what changes from now on is told. */
  async watch(session: Session, users: readonly UserId[]): Promise<PresenceState[]> {
    const { logic } = this.parts;
    // First: what is told while the answer is on its way is told here too.
    this.watches.add(session, users);
    try {
      const input = { by: session.user!, params: { users: [...users] }, gateway: this.node };
      const { presence, hidden } = await logic.watchPresence(input);
      this.watches.remove(session, hidden);
      // Closed meanwhile.
      if (session.state === "closed") this.watches.end(session);
      return presence;
    } catch (error) {
      this.watches.remove(session, users);
      throw error;
    }
  }

  unwatch(session: Session, users: readonly string[]): void {
    this.watches.remove(session, users);
  }

  /** This gateway goes on hearing of those whom anybody here watches. */
  async renewWatches(): Promise<void> {
    const { logic, clock } = this.parts;
    if (clock.now() - this.renewedAt < WATCH_MS / 3) return;
    this.renewedAt = clock.now();
    const users = this.watches.users();
    for (let i = 0; i < users.length; i += WATCHES_PER_CALL) {
      await logic.renewWatches({ users: users.slice(i, i + WATCHES_PER_CALL), gateway: this.node });
    }
  }

  async type(session: Session, conversation: string, on: boolean): Promise<void> {
    const { logic, clock } = this.parts;
    await logic.typing({ by: session.user!, params: { conversation, on } });
    // Closed meanwhile: there is nobody left whose end would be noticed.
    if (session.state === "closed") {
      if (on) this.endTyping(session, conversation);
      return;
    }
    for (const oldest of this.typists.note(session, conversation, on, clock.now())) this.endTyping(session, oldest);
  }

  /** What was typed is sent. */
  stopTyping(session: Session, conversation: string): void {
    if (!this.typists.isTyping(session, conversation)) return;
    this.typists.note(session, conversation, false, this.parts.clock.now());
    this.endTyping(session, conversation);
  }

  /** Ends what has not been heard of for a while. */
  sweep(nowMs: number): void {
    for (const [session, conversation] of this.typists.expired(nowMs)) this.endTyping(session, conversation);
  }

  /** The connection is gone. */
  end(session: Session): void {
    this.watches.end(session);
    for (const conversation of this.typists.end(session)) this.endTyping(session, conversation);
  }

  /** Nobody waits for it: clients take it as over by themselves. */
  private endTyping({ id, user }: Session, conversation: string): void {
    const { logic, log } = this.parts;
    logic.typing({ by: user!, params: { conversation, on: false } }).catch((error: unknown) => {
      log.debug({ connection: id, error }, "the end of typing was not told");
    });
  }
}
