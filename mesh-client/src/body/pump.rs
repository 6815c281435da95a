//! The handle of the task that sends a streaming request.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// How long a request may go on after its answer has ended. Envoy's stream idle timeout is as long.
const MAX_AFTER_ANSWER: Duration = Duration::from_secs(300);

/// Dropping it ends the sending, and resets the stream.
#[derive(Debug)]
pub(crate) struct Pump {
    task: Option<AbortHandle>,
}

impl Pump {
    pub(crate) fn new(task: AbortHandle) -> Self {
        Self { task: Some(task) }
    }

    /// Lets the request go on to its end, for a while.
    pub(crate) fn finish(mut self) {
        // Without a runtime there is nobody to keep the bound, so the task ends here.
        let Ok(runtime) = Handle::try_current() else { return };
        if let Some(task) = self.task.take().filter(|task| !task.is_finished()) {
            runtime.spawn(async move {
                tokio::time::sleep(MAX_AFTER_ANSWER).await;
                task.abort();
            });
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
