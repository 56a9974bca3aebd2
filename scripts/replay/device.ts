/**
 * One device of a user: a client of the chat that can be closed and opened again, as an app is, and goes on where it stopped by the
 * cursors that it kept.
 */

import { type Client, type Cursor, connect } from "../../lib/client/index.ts";

/** A send may outlive the restart of every process on its way; then the same clientId is tried again. */
const TIMEOUT_MS = 60_000;

export interface DeviceOptions {
  readonly user: string;
  readonly name: string;
  /** Of the gateways, the user's own first; the others take over when it does not answer. */
  readonly urls: readonly string[];
  readonly token: string;
  /** Listens to a client of this device's; each life has its own. */
  onClient(client: Client): void;
}

export class Device {
  readonly user: string;
  readonly name: string;
  readonly #options: DeviceOptions;
  readonly #kept = new Map<string, Cursor>();
  #client: Client | undefined;

  /** Asleep. */
  constructor(options: DeviceOptions) {
    this.user = options.user;
    this.name = options.name;
    this.#options = options;
  }

  /** Undefined while it is asleep. */
  get client(): Client | undefined {
    return this.#client;
  }

  wake(): Client {
    const { urls: url, token, name: device, onClient } = this.#options;
    const cursors = [...this.#kept.values()];
    const client = connect({ url, token, device, cursors, timeoutMs: TIMEOUT_MS });
    this.#client = client;
    onClient(client);
    return client;
  }

  sleep(): void {
    // A client that had no session yet has nothing newer than what it was given.
    for (const cursor of this.#client?.cursors() ?? []) this.#kept.set(cursor.conversation, cursor);
    this.#client?.close();
    this.#client = undefined;
  }

  /** Follows the conversation from there on, whether or not it heard of it. */
  follow(cursor: Cursor): void {
    if (this.#client) this.#client.follow(cursor);
    else if (!this.#kept.has(cursor.conversation)) this.#kept.set(cursor.conversation, cursor);
  }
}
