/** To be preloaded: whoever asks this process for the time of day hears an hour too much. Timers and performance.now() are as ever. */

const AHEAD_MS = 3_600_000;
const trueNow = Date.now;

class DateAhead extends Date {
  constructor(...given: unknown[]) {
    super(...((given.length === 0 ? [trueNow() + AHEAD_MS] : given) as [number]));
  }

  static override now(): number {
    return trueNow() + AHEAD_MS;
  }
}

globalThis.Date = DateAhead as DateConstructor;
