/** Requests of a replay end with an answer, whatever dies meanwhile. */

import { ClientError } from "../../lib/client/index.ts";

/** An unknown outcome is asked again under the same id; each try lasts a minute. */
const TRIES_MAX = 5;

/** Repeats what ends as unknown, or with the device that was closed on it; all requests of a replay may be repeated. */
export async function insist<T>(request: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await request();
    } catch (error) {
      const mayRepeat = error instanceof ClientError && (error.outcome === "unknown" || error.code === "CLOSED");
      if (!mayRepeat || tries >= TRIES_MAX) throw error;
    }
  }
}
