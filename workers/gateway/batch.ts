/** The answers of a batch: one frame for all of them, once the last is there. */

import { AppError } from "../../lib/errors.ts";
import { errorFrame, type RequestId } from "./frames.ts";

/** A batch answers in one frame; beyond this its further results are asked for alone. */
const BATCH_CHARACTERS_MAX = 384 * 1_024;

export class Batch {
  private readonly answers: string[] = [];
  private length = 0;

  constructor(private left: number) {}

  /** The whole answer once this was its last part. */
  add(frame: string, id: RequestId | null): string | undefined {
    const isTooLong = this.length + frame.length > BATCH_CHARACTERS_MAX && this.answers.length > 0;
    const detail = "The answers of this batch are too large for one frame: ask for this one alone";
    const kept = isTooLong ? errorFrame(id, new AppError("TOO_LARGE", detail)) : frame;
    this.answers.push(kept);
    this.length += kept.length;
    this.left -= 1;
    return this.left === 0 ? `[${this.answers.join(",")}]` : undefined;
  }
}
