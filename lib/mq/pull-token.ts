/**
 * What a service outside shows to answer for a delivery: which one, and under which of its hand-outs, sealed so that nobody else's
 * can be guessed or altered, nor taken to another topic or group.
 *
 *   base64url( seal 16 bytes · "<partition> <entry> <fence> <key>" )       seal: HMAC-SHA256 over topic, group and the text
 *
 * All that a token is checked against lies in Redis, so any process with the same secret can serve it.
 */

import { createHmac, timingSafeEqual } from "node:crypto";

const SEAL_BYTES = 16;
/** A key of 256 characters of 3 bytes, the rest, and a third more for base64. */
const TOKEN_LENGTH_MAX = 1_200;
const TEXT_PATTERN = /^(\d{1,4}) (\d{1,20}-\d{1,20}) (\S{1,64}) (\S{0,256})$/;

/** A delivery that was handed to a service. */
export interface PullRef {
  readonly partition: number;
  readonly entry: string;
  /** Which of the entry's hand-outs, as the group's mode tells them apart. */
  readonly fence: string;
  /** The message's key, "" when it has none. */
  readonly key: string;
}

export class PullTokens {
  readonly #secret: Uint8Array;

  constructor(secret: Uint8Array) {
    this.#secret = secret;
  }

  seal(topic: string, group: string, { partition, entry, fence, key }: PullRef): string {
    const text = `${partition} ${entry} ${fence} ${key}`;
    return Buffer.concat([this.#sealOf(topic, group, text), Buffer.from(text)]).toString("base64url");
  }

  /** undefined when it is not one of ours for this topic and group. */
  open(topic: string, group: string, token: string): PullRef | undefined {
    if (token.length > TOKEN_LENGTH_MAX) return undefined;
    const bytes = Buffer.from(token, "base64url");
    // Decoding forgives what is not base64url: one delivery has one token.
    if (bytes.length <= SEAL_BYTES || bytes.toString("base64url") !== token) return undefined;
    const text = bytes.subarray(SEAL_BYTES).toString();
    if (!timingSafeEqual(bytes.subarray(0, SEAL_BYTES), this.#sealOf(topic, group, text))) return undefined;
    const match = TEXT_PATTERN.exec(text);
    if (!match) return undefined;
    const [, partition, entry, fence, key] = match as unknown as [string, string, string, string, string];
    return { partition: Number(partition), entry, fence, key };
  }

  #sealOf(topic: string, group: string, text: string): Uint8Array {
    // Neither name holds a blank.
    return createHmac("sha256", this.#secret).update(`${topic} ${group} ${text}`).digest().subarray(0, SEAL_BYTES);
  }
}
