import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.retry.ExponentialBackoffRetry;
import org.redisson.Redisson;
import org.redisson.api.RLock;
import org.redisson.api.RedissonClient;
import org.redisson.config.Config;

/** Locks of Java clients, measured by dlock-bench: {@code Peer NAME URL}. One JSON object a line, in and out. */
public final class Peer {
    interface Release {
        void release() throws Exception;
    }

    interface Acquire {
        Release acquire(String key) throws Exception;
    }

    static Acquire redisson(String url) {
        Config config = new Config();
        config.useSingleServer().setAddress(url);
        RedissonClient client = Redisson.create(config);
        return key -> {
            RLock lock = client.getLock(key);
            lock.lock();
            return lock::unlock;
        };
    }

    static Acquire curator(String url) throws Exception {
        String address = url.split("://")[1].split("/")[0];
        CuratorFramework client = CuratorFrameworkFactory.newClient(address, new ExponentialBackoffRetry(100, 3));
        client.start();
        client.blockUntilConnected();
        return key -> {
            InterProcessMutex lock = new InterProcessMutex(client, "/curator-" + key);
            lock.acquire();
            return lock::release;
        };
    }

    static Map<String, Object> takeTurns(Acquire acquire, JsonNode ask) throws Exception {
        JsonNode workload = ask.get("workload");
        long from = ask.get("from").asLong();
        long until = ask.get("until").asLong();
        long work = workload.get("work_us").asLong();
        List<long[]> turns = new ArrayList<>();
        List<String> failures = new ArrayList<>();
        List<Thread> tasks = new ArrayList<>();
        for (int number = 0; number < workload.get("tasks").asInt(); number++) {
            int who = number;
            String key = ask.get("key").asText() + (workload.get("keys").asText().equals("one") ? "" : "-" + who);
            Thread task = new Thread(() -> {
                List<long[]> own = new ArrayList<>();
                try {
                    Thread.sleep(Math.max(0, (from - System.nanoTime()) / 1_000_000));
                    long asked = System.nanoTime();
                    while (asked < until) {
                        Release release = acquire.acquire(key);
                        long acquired = System.nanoTime();
                        if (work > 0) {
                            Thread.sleep(work / 1_000, (int) (work % 1_000) * 1_000);
                        }
                        long released = System.nanoTime();
                        release.release();
                        long done = System.nanoTime();
                        own.add(new long[] {who, asked, acquired, released, done});
                        asked = done;
                    }
                } catch (Exception error) {
                    synchronized (failures) {
                        failures.add(error.toString());
                    }
                }
                synchronized (turns) {
                    turns.addAll(own);
                }
            });
            tasks.add(task);
            task.start();
        }
        for (Thread task : tasks) {
            task.join();
        }
        return failures.isEmpty() ? Map.of("turns", turns) : Map.of("error", failures.get(0));
    }

    public static void main(String[] arguments) throws Exception {
        Acquire acquire = arguments[0].equals("redisson") ? redisson(arguments[1]) : curator(arguments[1]);
        ObjectMapper json = new ObjectMapper();
        System.out.println("{}");
        System.out.flush();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            JsonNode ask = json.readTree(line);
            String what = ask.get("do").asText();
            Object answer = what.equals("turns")
                    ? takeTurns(acquire, ask)
                    : Map.of("error", arguments[0] + " does not " + what);
            System.out.println(json.writeValueAsString(answer));
            System.out.flush();
        }
        System.exit(0);
    }
}
