// Stands behind a binding to a Workflow in a stateless cell: hands on what it is asked to the object
// cell of the Workflow's worker, where the instances are. Before that is replaced it lets nobody in any
// more, and says so before it does anything: then the next one is asked.
import { WorkerEntrypoint } from 'cloudflare:workers';

const LEAVING = 'kythera: the object cell is being replaced';
const LOST = 'Network connection lost.';
const AGAIN_MS = 20;
const AGAIN_MAX = 1500;

function lost(workflow, cause) {
  const which = `The Workflow ${JSON.stringify(workflow)} is not reached:`;
  return new Error(`${which} its process has ended under the call, or it was deleted since this Worker was deployed.`, { cause });
}

async function asked(self, method, given) {
  if (self.env.WHY) {
    throw new Error(self.env.WHY);
  }
  for (let tries = 1; ; tries += 1) {
    try {
      return await self.env.DOOR.workflow(self.ctx.props.workflow, method, given);
    } catch (error) {
      if (error?.message === LOST) {
        throw self.env.AWAY ? new Error(self.env.AWAY, { cause: error }) : lost(self.ctx.props.workflow, error);
      }
      if (error?.message !== LEAVING || tries === AGAIN_MAX) {
        throw error;
      }
      await scheduler.wait(AGAIN_MS);
    }
  }
}

export default class extends WorkerEntrypoint {
  getInstance(...given) {
    return asked(this, 'getInstance', given);
  }

  create(...given) {
    return asked(this, 'create', given);
  }

  createBatch(...given) {
    return asked(this, 'createBatch', given);
  }

  deleteInstance(...given) {
    return asked(this, 'deleteInstance', given);
  }

  deleteBatch(...given) {
    return asked(this, 'deleteBatch', given);
  }

  pause(...given) {
    return asked(this, 'pause', given);
  }

  resume(...given) {
    return asked(this, 'resume', given);
  }

  terminate(...given) {
    return asked(this, 'terminate', given);
  }

  restart(...given) {
    return asked(this, 'restart', given);
  }

  status(...given) {
    return asked(this, 'status', given);
  }

  sendEvent(...given) {
    return asked(this, 'sendEvent', given);
  }

  subscribe(...given) {
    return asked(this, 'subscribe', given);
  }
}
